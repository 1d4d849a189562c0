"""The options of `python -m train.concepts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocklora_jax.command_line.options import check_options

# A folder in --out, beside the folders of the concepts.
GROUPS = "groups"


@dataclass(frozen=True, kw_only=True)
class ConceptsOptions:
    """Teach a model many concepts in one program. Each result is the same as if the concept were trained alone.

    All other settings are those of `python -m train.concept` (see its --help) and hold for all concepts.
    """

    concepts: Path
    """A YAML file with lines `name: {class_noun: …, images: …, token: …, slot: …}`, or a folder with one folder of
    pictures for each concept, which holds such settings in a concept.yaml."""
    out: Path
    """Run folder. It has a folder for each concept with adapter.safetensors and previews/; metrics are in groups/."""
    at_once: int = 16
    """How many concepts train at the same time; memory limits this. The others follow in groups."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def groups(self) -> Path:
        """The folder for metrics and checkpoints."""
        return self.out / GROUPS
