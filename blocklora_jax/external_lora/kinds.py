"""Recognises files that are not ordinary LoRAs by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Collection

# (pattern, kind). The first pattern that occurs in any key gives the file's kind.
_KINDS: tuple[tuple[str, str], ...] = (
    (r"(^|\.)(dora_scale|lora_magnitude_vector)", "a DoRA (weight-decomposed LoRA)"),
    (r"\.hada_(w\d|t\d)", "a LoHa (Hadamard product)"),
    (r"\.lokr_(w\d|t\d)", "a LoKr (Kronecker product)"),
    (r"\.(oft_(blocks|diag|r|R)|boft_[rRs])(\.|$)", "an OFT or BOFT (orthogonal finetuning)"),
    (r"\.[ab][12]\.weight$", "a GLoRA (generalised LoRA)"),
    (r"\.(on_input|ia3_l)(\.|$)", "an IA3 (rescaled activations)"),
    (r"\.vera_lambda_|(^|\.)vera_[AB](\.|$)", "a VeRA (shared random matrices)"),
    (r"\.(w_norm|b_norm)$", "a LoRA that also trains norms (w_norm, b_norm)"),
    (r"\.(diff|diff_b|set_weight)$", "a file of full weight differences (diff)"),
    (r"\.reshape_weight$", "a LoRA that changes the shape of weights (reshape_weight)"),
    (r"\.lora_embedding_[AB]", "a LoRA of embedding tables (lora_embedding_A)"),
    (r"\.(lora_[AB]|lora_up|lora_down)\.bias$", "a LoRA with biases (lora_B.bias)"),
    (r"^bundle_emb\.", "a LoRA with embeddings bundled in it (bundle_emb)"),
    (r"^(emb_params|clip_[lg])$|^<[^>]+>$", "a textual-inversion embedding"),
    (r"lllite_", "a ControlNet-LLLite"),
    (r"^(ip_adapter|image_proj)\.", "an IP-Adapter"),
    (r"^(control_model|controlnet|input_hint_block)\b|^lora_controlnet", "a ControlNet"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.", "a whole model, not an adapter"),
    (r"double_blocks|single_blocks|single_transformer_blocks|^lora_te3_", "a LoRA of Flux or Stable Diffusion 3"),
    (r"joint_blocks|^transformer\.|^lora_transformer_", "a LoRA of Stable Diffusion 3 or another transformer model"),
    (r"motion_modules", "an AnimateDiff motion LoRA"),
)
SUPPORTED = "LoRA and LoCon of Stable Diffusion 1.x, 2.x and XL in the layouts of diffusers/PEFT and kohya"


def unsupported_kind(keys: Collection[str]) -> str | None:
    """The kind of a file with tensors of these names, if it is a known kind that cannot be read.

    >>> unsupported_kind(["lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"])
    'a LoHa (Hadamard product)'
    """
    for pattern, kind in _KINDS:
        if any(re.search(pattern, key) for key in keys):
            return kind
    return None
