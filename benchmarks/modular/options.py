"""The options of `python -m benchmarks.modular`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.modular.core.methods import FEATURE_BLOCKS, METHODS, check_known
from benchmarks.modular.worlds.encoder_measures import Encoders
from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError
from train.shares.share import Share

# The table of the README.
HEADLINE = (
    "token", "token_fit", "text_64", "blocklora_1", "wide_3", "wide_3_fused", "sum", "plain_fused", "fusion", "average",
    "ties", "dare", "orthogonal", "preservation", "sum_attention", "orthogonal_attention",
)  # fmt: skip
# A check of a few minutes: a recipe of each kind of training, and merges with and without a fit or a search.
QUICK = ("token", "token_fit", "orthogonal", "preservation", "sum", "ties")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach, merge and measure."""

    quick: bool = False
    """Three concepts, few steps: a check that all of it runs, no measurement."""
    table: bool = False
    """Teach and draw nothing: the table and the curves of the results that are already under --out."""
    shard: str | None = None
    """I/N, such as 0/2: only teach this share of the groups of concepts, and measure nothing. On a CPU, one process for
    each core teaches more than one process over all cores. When all are done, call it without --shard."""
    out: Path = Path("runs/modular")
    methods: tuple[str, ...] = ()
    """Among those of methods.py. If not given: those of the README's table that the model has a recipe for."""
    counts: tuple[int, ...] = (15,)
    """How many concepts are merged; the greatest is how many are taught."""
    seeds: tuple[int, ...] = (4, 5, 6)
    """Each has concepts, trainings and noise of its own. No setting was chosen on the concepts of 4, 5 and 6."""
    steps: int = 300
    batch: int = 6
    at_once: int = 5
    """How many concepts train in one program."""
    prompts: int = 6
    """Pictures of each concept."""
    sampler_steps: int = 12
    model: str = "pocket"
    """The base: "pocket", a Diffusers folder, or a hub id. Models other than the pocket model need --concepts."""
    concepts: Path | None = None
    """A folder of folders of pictures, each with a concept.yaml, instead of the pocket world's concepts."""
    config: Path | None = None
    """With --concepts: a YAML file of settings of `train.concept` that fit the model (see configs/)."""
    size: int | None = None
    """With --concepts: pixels of a picture's side in training and drawing; the model's own if not given."""
    sentences: Path | None = None
    """With --concepts: prompts by kind and category, as in sentences.yaml."""
    encoders: Encoders = Encoders()

    def __post_init__(self) -> None:
        check_options(self)
        check_known("--methods", self.methods, METHODS)
        if self.quick and self.table:
            raise UserError("--quick measures anew and --table measures nothing: call them one after the other")
        if self.shard is not None:
            Share.parse(self.shard)  # refuses what is none
            if self.quick or self.table:
                raise UserError("--shard only teaches: leave out --quick and --table")
        needs = {"config": self.config, "size": self.size, "sentences": self.sentences}
        if self.concepts is None and (given := [name for name, value in needs.items() if value is not None]):
            raise UserError(f"--{given[0]} is for real concepts: give --concepts DIR too")

    @property
    def settings(self) -> dict[str, Any]:
        """Of `train.concept`, for all trainings but for what their recipe says."""
        own = {"config": str(self.config) if self.config else None, "resolution": self.size}
        found = {name: value for name, value in own.items() if value is not None}
        # The defaults need a basis, which a real model has if --config names it.
        start = FEATURE_BLOCKS if self.concepts and not self.config else {}
        return {**start, **found, "steps": self.steps, "batch": self.batch, "model": self.model}

    @property
    def of_real_concepts(self) -> dict[str, Any]:
        """What else their results depend on, as JSON; nothing in the pocket world."""
        if self.concepts is None:
            return {}
        named = {"config": self.config, "sentences": self.sentences, "encoders": self.encoders}
        return {"size": self.size, **{name: str(value) for name, value in named.items()}}

    @property
    def share(self) -> Share:
        """Of the groups of concepts."""
        return Share.parse(self.shard or "0/1")

    @property
    def blocks(self) -> int:
        """Slots for all concepts."""
        return max(16, *self.counts)
