"""Recognises files that cannot be read, although they are adapters or models, by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection

# (pattern, kind). The first pattern that occurs in any key gives the file's kind.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"\.vera_lambda_|(^|\.)vera_[AB](\.|$)", "a VeRA (shared random matrices)"),
    (r"\.reshape_weight$", "a LoRA that changes the shape of weights (reshape_weight)"),
    (r"\.lora_embedding_[AB]", "a LoRA of embedding tables (lora_embedding_A)"),
    (r"\.(lora_A|lora_down)\.bias$", "a LoRA with biases of its down projections (lora_A.bias)"),
    (r"\.oft_r$", "an OFT of an early version of PEFT (oft_r)"),
    (r"^(emb_params|clip_[lg])$|^<[^>]+>$", "a textual-inversion embedding"),
    (r"lllite_", "a ControlNet-LLLite"),
    (r"^(ip_adapter|image_proj)\.", "an IP-Adapter"),
    (r"^(control_model|controlnet|input_hint_block)\b|^lora_controlnet", "a ControlNet"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.", "a whole model, not an adapter"),
    (r"double_blocks|single_blocks|single_transformer_blocks|^lora_te3_", "a LoRA of Flux or Stable Diffusion 3"),
    (r"joint_blocks|^transformer\.|^lora_transformer_", "a LoRA of Stable Diffusion 3 or another transformer model"),
    (r"motion_modules", "an AnimateDiff motion LoRA"),
)
SUPPORTED = (
    "LoRA and LoCon, LoHa, LoKr, GLoRA, OFT, BOFT, IA3, DoRA and full differences of Stable Diffusion 1.x, 2.x and XL"
    " in the layouts of diffusers/PEFT, kohya and LyCORIS"
)


def unsupported_kind(keys: Collection[str]) -> str | None:
    """The kind of a file with tensors of these names, if it is a known kind that cannot be read.

    >>> unsupported_kind(["unet.mid_block.attentions.0.proj_in.vera_lambda_d"])
    'a VeRA (shared random matrices)'
    """
    for pattern, kind in _KINDS:
        if any(re.search(pattern, key) for key in keys):
            return kind
    return None
