"""What is measured, the most valuable first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Side = Literal["jax", "torch"]


@dataclass(frozen=True)
class Task:
    """Measurements that one process makes.

    name: of its lines. kind: a key of `child.KINDS`. settings: for that kind. prepare, measure: expected seconds on a
    large card, until the process can measure and while it does, as seen on an H100 with 16 cores and five tasks side by
    side. gigabytes: of the card's memory.
    """

    name: str
    side: Side
    kind: str
    prepare: float
    measure: float
    gigabytes: float
    settings: dict[str, Any] = field(default_factory=dict)


def list_tasks() -> list[Task]:
    """All tasks. Each is worth more than those after it."""
    sd, xl, fast = {"model": "sd15"}, {"model": "sdxl"}, {"compiled": True}
    return [
        Task("training sd15 b4", "jax", "jax training", 150, 4, 14, {**sd, "batch": 4}),
        Task("training sd15 eager", "torch", "torch training", 40, 9, 26, {**sd, "batches": [4, 1, 8]}),
        Task("training sd15 compiled b4", "torch", "torch training", 220, 4, 16, {**sd, "batches": [4], **fast}),
        Task("training sd15 b1", "jax", "jax training", 130, 3, 8, {**sd, "batch": 1}),
        Task("training sd15 8 concepts b1", "jax", "jax training", 150, 5, 26, {**sd, "batch": 1, "concepts": 8}),
        Task("sampling sd15", "jax", "jax sampling", 80, 9, 12, {**sd, "batches": [1, 8]}),
        Task("sampling sd15 eager", "torch", "torch sampling", 40, 14, 12, {**sd, "batches": [1, 8]}),
        Task("training sdxl b1", "jax", "jax training", 220, 4, 22, {**xl, "batch": 1}),
        Task("training sdxl eager", "torch", "torch training", 50, 9, 60, {**xl, "batches": [1, 4]}),
        Task("compose", "jax", "jax compose", 90, 12, 6, {"counts": [15, 60]}),
        Task("fuse", "torch", "torch fuse", 60, 10, 6, {"counts": [15, 60]}),
        Task("training sd15 b8", "jax", "jax training", 160, 5, 22, {**sd, "batch": 8}),
        Task("training sd15 b4 erasure", "jax", "jax training", 160, 4, 16, {**sd, "batch": 4, "variant": "layer"}),
        Task("training sd15 b4 tokens", "jax", "jax training", 160, 4, 16, {**sd, "batch": 4, "variant": "tokens"}),
        Task("attention", "jax", "jax attention", 60, 10, 20, {}),
        Task("training sdxl b4", "jax", "jax training", 260, 6, 60, {**xl, "batch": 4}),
        Task("sampling sdxl", "jax", "jax sampling", 130, 12, 16, {**xl, "batches": [1]}),
        Task("sampling sdxl eager", "torch", "torch sampling", 50, 14, 18, {**xl, "batches": [1]}),
        Task("sampling sd15 compiled", "torch", "torch sampling", 250, 12, 12, {**sd, "batches": [1, 8], **fast}),
        Task("training sd15 compiled b8", "torch", "torch training", 220, 5, 26, {**sd, "batches": [8], **fast}),
        Task("training sd15 compiled b1", "torch", "torch training", 220, 3, 8, {**sd, "batches": [1], **fast}),
        Task("training sdxl compiled b1", "torch", "torch training", 360, 5, 24, {**xl, "batches": [1], **fast}),
        Task("training sd15 b4 chunked", "jax", "jax training", 160, 5, 16, {**sd, "batch": 4, "attention": "chunked"}),
        Task("training sd15 b4 plain", "jax", "jax training", 160, 5, 30, {**sd, "batch": 4, "attention": "plain"}),
        Task("training sd15 b4 epsilon", "jax", "jax training", 180, 5, 24, {**sd, "batch": 4, "variant": "epsilon"}),
        Task("training sd15 b4 remat", "jax", "jax training", 180, 5, 10, {**sd, "batch": 4, "remat": True}),
    ]  # fmt: skip
