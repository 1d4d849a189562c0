"""What is timed: a training step or a number of pictures, of one model at one size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["training", "sampling"]

# Of the LoRA in training: the keys and values of the layers that read text.
RANK = 16
GUIDANCE = 7.5


@dataclass(frozen=True)
class Case:
    """model: "sd15", "sdxl", ... with random weights, or "pocket". size: of pictures, in pixels. steps: of sampling."""

    model: str
    task: Task
    size: int
    batch: int
    steps: int = 0
    remat: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        kind = f"{self.steps} steps" if self.task == "sampling" else "rematerialised" if self.remat else ""
        return " ".join(filter(None, [self.model, self.task, f"{self.size} px, batch {self.batch}", kind]))


CASES = (
    Case("pocket", "training", 64, 6),
    Case("pocket", "sampling", 64, 4, steps=30),
    Case("sd15", "training", 256, 1),
    Case("sd15", "sampling", 256, 1, steps=10),
)
# One step each, for the memory that a process takes.
LARGE = (
    Case("sd15", "training", 512, 1),
    Case("sd15", "training", 512, 1, remat=True),
    Case("sdxl", "training", 512, 1, remat=True),
)
QUICK = (Case("pocket", "training", 64, 2), Case("pocket", "sampling", 64, 1, steps=4))
