"""The names that programs other than diffusers, PEFT and kohya's scripts give to layers: one entry for each dialect.

Each pattern matches a tensor's name without its ending (`.lora_A.weight`, `.alpha`, …). The name is rewritten to one in
the layout of PEFT or of kohya. If no layer has that name, the file is refused: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.layouts.lora_layers import known_layers
from blocklora_jax.layouts.norm_layers import any_norm_table, known_norms
from blocklora_jax.layouts.peft import peft_layer

_UNET_ROOTS = r"(?:(?:down|up)_blocks|mid_block|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding)"
_LDM_ROOTS = r"(?:input_blocks|middle_block|output_blocks|time_embed|label_emb|out)"


class Dialect(NamedTuple):
    """A way to name layers.

    program: which programs write it.
    pattern: for the whole name.
    rewrite: the new name. It has dots in PEFT's layout, and begins with "lora_" in kohya's, where dots become "_".
    """

    program: str
    pattern: re.Pattern[str]
    rewrite: str


DIALECTS: tuple[Dialect, ...] = (
    Dialect("diffusers (`save_lora_adapter`, `save_attn_procs`)", re.compile(rf"({_UNET_ROOTS}(?:\..+)?)"), r"unet.\1"),
    Dialect("ComfyUI, SD-Forge", re.compile(rf"diffusion_model\.({_LDM_ROOTS}\..+)"), r"lora_unet_\1"),
    Dialect("ai-toolkit", re.compile(rf"diffusion_model\.({_UNET_ROOTS}(?:\..+)?)"), r"unet.\1"),
    # OMI is the format that OneTrainer and others agreed on: LDM's names behind diffusers' prefix.
    Dialect("OneTrainer (OMI)", re.compile(rf"unet\.({_LDM_ROOTS}\..+)"), r"lora_unet_\1"),
    Dialect(
        "SimpleTuner, LyCORIS (a U-Net that was wrapped alone)",
        re.compile(r"lycoris_(?:unet_)?((?:down|up|mid|conv|time|add|input|middle|output|label|out)_.+)"),
        r"lora_unet_\1",
    ),
    Dialect("LyCORIS (a text encoder)", re.compile(r"lycoris_(te[12]?_text_model_.+)"), r"lora_\1"),
    Dialect("kohya's and A1111's OFT", re.compile(r"oft_((?:unet|te[12]?)_.+)"), r"lora_\1"),
    Dialect("OneTrainer (before OMI)", re.compile(r"lora_((?:unet|te[12]?)\..+)"), r"lora_\1"),
    # CLIP-L is the text encoder of 1.x and the first one of SDXL. CLIP-H is the text encoder of 2.x. CLIP-G is the
    # second one of SDXL.
    Dialect(
        "ComfyUI (`text_encoders.clip_l.transformer…`), OneTrainer (`clip_l…`)",
        re.compile(r"(?:text_encoders\.)?clip_[lh]\.(?:transformer\.)?(text_model\..+)"),
        r"text_encoder.\1",
    ),
    Dialect(
        "ComfyUI, OneTrainer (the second text encoder of SDXL)",
        re.compile(r"(?:text_encoders\.)?clip_g\.(?:transformer\.)?((?:text_model|text_projection).*)"),
        r"text_encoder_2.\1",
    ),
)
KOHYA, PEFT = "kohya, A1111", "diffusers, PEFT"


def find_layer(head: str) -> tuple[str, str] | None:
    """(component, Flax layer path) of a tensor's name without its ending; None if it is not a known name of a layer.

    >>> find_layer("diffusion_model.middle_block.1.proj_in")
    ('unet', 'mid_block/attentions_0/proj_in')
    """
    return _find(head, any_kohya_table(), known_layers)


def find_norm(head: str) -> tuple[str, str] | None:
    """(component, Flax path) of a norm; None if it is not a known name of one.

    >>> find_norm("lora_te_text_model_final_layer_norm")
    ('text_encoder', 'text_model/final_layer_norm')
    """
    return _find(head, any_norm_table(), known_norms)


def programs_of(heads: Iterable[str]) -> list[str]:
    """The programs that write such names, the most frequent first: "kohya, A1111".

    >>> programs_of(["unet.conv_in", "lora_unet_conv_in", "unet.conv_out"])
    ['diffusers, PEFT', 'kohya, A1111']
    """
    counts: dict[str, int] = {}
    for head in heads:
        name = _program(head)
        counts[name] = counts.get(name, 0) + 1
    return sorted(counts.keys() - {""}, key=lambda name: -counts[name])


def _program(head: str) -> str:
    if head in any_kohya_table() or head in any_norm_table():
        return KOHYA
    if peft_layer(head) or peft_layer(head, known_norms):
        return PEFT
    return next((dialect.program for dialect in DIALECTS if dialect.pattern.fullmatch(head)), "")


def _find(
    head: str, table: Mapping[str, tuple[str, str]], known: Callable[[str], Collection[str]]
) -> tuple[str, str] | None:
    if layer := table.get(head) or peft_layer(head, known):
        return layer
    for dialect in DIALECTS:
        if match := dialect.pattern.fullmatch(head):
            name = match.expand(dialect.rewrite)
            return table.get(name.replace(".", "_")) if name.startswith("lora_") else peft_layer(name, known)
    return None
