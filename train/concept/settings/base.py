"""How the base model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The base model: its weights and its precision."""

    variant: str | None = None
    """Weights variant of the base, such as fp16."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the models compute in. auto: bfloat16 on TPU, float32 elsewhere. Adapters are always float32."""
    remat: bool = False
    """Recompute the U-Net's blocks in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        check_options(self)
