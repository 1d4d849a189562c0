"""The names that programs other than diffusers, PEFT and kohya's scripts give to layers: one line for each dialect.

Each pattern matches a tensor's name without its ending (`.lora_A.weight`, `.alpha`, …). The name is rewritten to one in
the layout of PEFT or of kohya. If no layer has that name, the file is refused: nothing is guessed.
"""

from __future__ import annotations

import re

from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.layouts.peft import peft_layer

_UNET_ROOTS = r"(?:(?:down|up)_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)"
_LDM_ROOTS = r"(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)"

# (pattern for the whole name, new name). The new name has dots in PEFT's layout, and begins with "lora_" in kohya's.
DIALECTS: tuple[tuple[re.Pattern[str], str], ...] = (
    # diffusers: `unet.save_lora_adapter`, `unet.save_attn_procs`.
    (re.compile(rf"({_UNET_ROOTS}(?:\..+)?)"), r"unet.\1"),
    # ComfyUI, ai-toolkit: the U-Net's names in the code of LDM or of diffusers.
    (re.compile(rf"diffusion_model\.({_LDM_ROOTS}\..+)"), r"lora_unet_\1"),
    (re.compile(rf"diffusion_model\.({_UNET_ROOTS}(?:\..+)?)"), r"unet.\1"),
    # OneTrainer (OMI): LDM's names behind diffusers' prefix.
    (re.compile(rf"unet\.({_LDM_ROOTS}\..+)"), r"lora_unet_\1"),
    # SimpleTuner, LyCORIS: a U-Net that was wrapped alone.
    (
        re.compile(r"lycoris_(?:unet_)?((?:down|up|mid|conv|time|add|input|middle|output|label|out)_.+)"),
        r"lora_unet_\1",
    ),
    # ComfyUI (`text_encoders.clip_l.transformer.text_model…`) and OneTrainer (`clip_l.text_model…`). CLIP-L is the text
    # encoder of 1.x and the first one of SDXL. CLIP-H is the text encoder of 2.x. CLIP-G is the second one of SDXL.
    (re.compile(r"(?:text_encoders\.)?clip_[lh]\.(?:transformer\.)?(text_model\..+)"), r"text_encoder.\1"),
    (
        re.compile(r"(?:text_encoders\.)?clip_g\.(?:transformer\.)?((?:text_model|text_projection).*)"),
        r"text_encoder_2.\1",
    ),
)


def find_layer(head: str) -> tuple[str, str] | None:
    """(component, Flax layer path) of a tensor's name without its ending; None if it is not a known name of a layer.

    >>> find_layer("diffusion_model.middle_block.1.proj_in")
    ('unet', 'mid_block/attentions_0/proj_in')
    """
    if layer := any_kohya_table().get(head) or peft_layer(head):
        return layer
    for pattern, name in DIALECTS:
        if match := pattern.fullmatch(head):
            known = match.expand(name)
            return any_kohya_table().get(known.replace(".", "_")) if known.startswith("lora_") else peft_layer(known)
    return None
