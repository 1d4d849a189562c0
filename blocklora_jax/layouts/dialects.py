"""Names of layers as programs beside diffusers, PEFT and kohya's scripts write them: one line a dialect.

Each pattern is for a tensor's name without its ending (`.lora_A.weight`, `.alpha`, …), which is rewritten to a name in
the layout of PEFT or of kohya. If that is not the name of a layer, the file is refused: nothing is guessed.
"""

from __future__ import annotations

import re

from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.layouts.peft import peft_layer

_UNET_ROOTS = r"(?:(?:down|up)_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)"
_LDM_ROOTS = r"(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)"

# (whole name, what it becomes; a name with dots for PEFT's layout, "lora_…" for kohya's)
DIALECTS: tuple[tuple[re.Pattern[str], str], ...] = (
    # diffusers: `unet.save_lora_adapter`, `unet.save_attn_procs`.
    (re.compile(rf"({_UNET_ROOTS}(?:\..+)?)"), r"unet.\1"),
    # ComfyUI, ai-toolkit: the U-Net's names in LDM's code, or in diffusers'.
    (re.compile(rf"diffusion_model\.({_LDM_ROOTS}\..+)"), r"lora_unet_\1"),
    (re.compile(rf"diffusion_model\.({_UNET_ROOTS}(?:\..+)?)"), r"unet.\1"),
    # OneTrainer (OMI): LDM's names behind diffusers' prefix.
    (re.compile(rf"unet\.({_LDM_ROOTS}\..+)"), r"lora_unet_\1"),
    # SimpleTuner, LyCORIS: a U-Net wrapped by itself.
    (
        re.compile(r"lycoris_(?:unet_)?((?:down|up|mid|conv|time|add|input|middle|output|label|out)_.+)"),
        r"lora_unet_\1",
    ),
    # ComfyUI (`text_encoders.clip_l.transformer.text_model…`) and OneTrainer (`clip_l.text_model…`). CLIP-L is the text
    # encoder of 1.x and the first of SDXL, CLIP-H that of 2.x, CLIP-G the second of SDXL.
    (re.compile(r"(?:text_encoders\.)?clip_[lh]\.(?:transformer\.)?(text_model\..+)"), r"text_encoder.\1"),
    (
        re.compile(r"(?:text_encoders\.)?clip_g\.(?:transformer\.)?((?:text_model|text_projection).*)"),
        r"text_encoder_2.\1",
    ),
)


def find_layer(head: str) -> tuple[str, str] | None:
    """(component, Flax layer path) of a tensor's name without its ending; None if no program calls a layer so.

    >>> find_layer("diffusion_model.middle_block.1.proj_in")
    ('unet', 'mid_block/attentions_0/proj_in')
    """
    if found := any_kohya_table().get(head) or peft_layer(head):
        return found
    for pattern, name in DIALECTS:
        if match := pattern.fullmatch(head):
            usual = match.expand(name)
            return any_kohya_table().get(usual.replace(".", "_")) if usual.startswith("lora_") else peft_layer(usual)
    return None
