"""The optimizer: batch size, learning rates, regularization."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora_jax.command_line.options import check_options


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW with a linear warm-up, then a cosine decay to a tenth of the rate."""

    batch: int = 6
    """Number of pictures of the concept in a step, over all devices."""
    learning_rate: float = 1.2e-2
    """Learning rate of the U-Net's adapter."""
    text_learning_rate: float = 3e-4
    """Learning rate of the text encoder's adapter, if `layers` names the text encoder."""
    token_learning_rate: float = 5e-3
    """Learning rate of the concept's embeddings. With 0 they keep their initial values."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    clip_norm: float = 1.0
    """Gradients are clipped to this global norm."""

    def __post_init__(self) -> None:
        check_options(self)
