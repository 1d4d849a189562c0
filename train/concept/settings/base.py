"""How the base model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options
from blocklora_jax.models.attention_form import AttentionForm


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The base model: its weights and its precision."""

    variant: str | None = None
    """Weights variant of the base, such as fp16."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the models compute in. auto: bfloat16 on TPUs and on NVIDIA GPUs from Ampere on, float32 elsewhere. Adapters
    are always float32."""
    base_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the base's weights on the device. auto: what the models compute in, or float16 on a GPU that computes in
    float32. The files of merged models do not depend on it."""
    remat: bool = False
    """Recompute the U-Net's layers in the backward pass: less memory, more time."""
    attention: AttentionForm = "auto"
    """Form of the attention. cudnn: NVIDIA's fused kernel, from Ampere on, in bfloat16. flash: the Pallas kernel of
    TPUs. chunked: a part of the queries at a time. plain: all at once. auto: what the device is best at."""

    def __post_init__(self) -> None:
        check_options(self)
