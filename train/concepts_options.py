"""The options of `python -m train.concepts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError
from train.shares.share import Share

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

    shard: str | None = None
    """I/N: train only share I, from 0, of N shares, such as $SLURM_ARRAY_TASK_ID/8. Groups of --at-once concepts are
    dealt out; finished ones are skipped, and then those are trained that nobody else trains. All shares need the same
    --out, --concepts and --at-once. What was begun is continued, so --resume is not needed. Nothing is pushed: --push
    and `push:` are refused."""
    lease: float = 300.0
    """With --shard: seconds without a sign of life after which a machine counts as dead, and others go on with its
    group. On a network file system not below 120."""
    wait: bool = False
    """With --shard: stay until the groups of the other shares are finished, to take over from machines that die."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.shard is not None:
            Share.parse(self.shard)
        elif self.wait:
            raise UserError("--wait is for --shard: give both, or leave it out")

    @property
    def groups(self) -> Path:
        """The folder for metrics and checkpoints."""
        return self.out / GROUPS
