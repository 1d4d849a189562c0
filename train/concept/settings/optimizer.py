"""The optimizer: batch size, learning rates, regularization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError

# A learning rate below this is not meant as a factor of Prodigy's step size.
_LEAST_FACTOR = 0.05


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Batch size, learning rates and their schedule, the algorithm, and the average."""

    batch: int = 6
    """Number of pictures of the concept in a step, over all devices."""
    accumulate: int = 1
    """Gradient accumulation: a step takes this many batches one after the other, and trains on all of them, as if
    --batch were that much larger; memory holds one. Random rows are multiplied too."""
    optimizer: Literal["adamw", "prodigy", "adafactor"] = "adamw"
    """adamw; prodigy, which finds its own step size: give learning rates of 1, which are factors of it; or adafactor,
    whose state is smaller."""
    learning_rate: float = 1.2e-2
    """Learning rate of the U-Net's adapter."""
    text_learning_rate: float = 3e-4
    """Learning rate of the text encoder's adapter, if `layers` names the text encoder."""
    token_learning_rate: float = 5e-3
    """Learning rate of the concept's embeddings. With 0 they keep their initial values."""
    weight_decay: float = 0.01
    """Weight decay, multiplied by the learning rate."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """Learning rates after the warm-up. cosine and linear end at a tenth."""
    clip_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    ema: float = 0.0
    """Save an exponential moving average of the adapter, with this decay (such as 0.99), instead of its last values.
    Previews show the average. 0: off."""

    def __post_init__(self) -> None:
        check_options(self)
        self._check_prodigy()

    @property
    def rows(self) -> int:
        """Number of pictures of the concept in a step, in all its batches."""
        return self.batch * self.accumulate

    def _check_prodigy(self) -> None:
        """Raises UserError for Prodigy with learning rates that are meant for AdamW."""
        rates = {
            "--learning-rate": self.learning_rate,
            "--text-learning-rate": self.text_learning_rate,
            "--token-learning-rate": self.token_learning_rate,
        }
        low = [flag for flag, rate in rates.items() if 0 < rate < _LEAST_FACTOR]
        if self.optimizer == "prodigy" and low:
            raise UserError(
                "--optimizer prodigy finds its own step size, and learning rates are factors of it: give"
                f" {' '.join(f'{flag} 1' for flag in low)} (0 trains nothing)"
            )
