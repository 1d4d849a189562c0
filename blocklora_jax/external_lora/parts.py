"""The parts of a layer's change: the endings that other programs give to the names of tensors."""

from __future__ import annotations

import re
from collections.abc import Collection

# (pattern for the whole name, part). The first group is the layer's name; an empty part means the second group.
# Old diffusers wrote `to_q_lora.down` and `lora_linear_layer.down`. PEFT may put the adapter's name before `.weight`.
_ENDINGS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"(.+)\.lora_(?:down|A|A\.\w+)\.weight", "down"),
        (r"(.+)\.lora_(?:up|B|B\.\w+)\.weight", "up"),
        (r"(.+)\.lora_mid\.weight", "mid"),
        (r"(.+)\.lora_(?:up|B|B\.\w+)\.bias", "up_bias"),
        (r"(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight", "down"),
        (r"(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight", "up"),
        (r"(.+)\.(hada_(?:w[12]_[ab]|t[12]))", ""),
        (r"(.+)\.(lokr_(?:w[12](?:_[ab])?|t[12]))", ""),
        (r"(.+)\.([ab][12]|bm)\.weight", ""),
        (r"(.+)\.(oft_blocks|rescale)", ""),
        (r"(.+)\.oft_R(?:\.\w+)?\.weight", "oft_R"),
        (r"(.+)\.(boft_[Rs])", ""),
        (r"(.+)\.(ia3_l|on_input)", ""),
        (r"(.+)\.(diff|diff_b|set_weight|w_norm|b_norm)", ""),
        (r"(.+)\.dora_scale", "magnitude"),
        (r"(.+)\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?", "output_magnitude"),
        (r"(.+)\.(alpha|scalar)", ""),
    )
)
_IA3 = re.compile(r"(.+)\.weight")


def split_name(key: str, keys: Collection[str]) -> tuple[str, str]:
    """The name of the layer and of the part; (key, "") for a tensor that is no part. keys: all names in the file.

    >>> split_name("lora_unet_conv_in.lora_up.weight", ())
    ('lora_unet_conv_in', 'up')
    """
    for pattern, part in _ENDINGS:
        if match := pattern.fullmatch(key):
            return match[1], part or match[2]
    # LyCORIS' IA3 calls its vector `weight`, like the weights of whole models.
    if (match := _IA3.fullmatch(key)) and f"{match[1]}.on_input" in keys:
        return match[1], "ia3_weight"
    return key, ""
