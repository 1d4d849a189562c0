"""The options of `python -m train.concepts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocklora_jax.command_line.options import check_options

# Below --out, beside the concepts' own folders.
GROUPS = "groups"


@dataclass(frozen=True, kw_only=True)
class ConceptsOptions:
    """Teach a model many concepts in one program, each as if it were alone; every adapter is a file of its own.

    All other settings are those of `python -m train.concept` (see its --help) and hold for all concepts.
    """

    concepts: Path
    """A YAML file `name: {class_noun: …, images: …, token: …, slot: …}`, or a folder of folders of pictures, each with such settings in its concept.yaml."""
    out: Path
    """Run folder: each concept's adapter.safetensors and previews/ in a folder of its name; metrics in groups/."""
    at_once: int = 16
    """How many concepts train at the same time: what fits in memory. The others follow in groups."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def groups(self) -> Path:
        """The folder for metrics and checkpoints."""
        return self.out / GROUPS
