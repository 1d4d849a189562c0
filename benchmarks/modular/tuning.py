"""How the settings of tuned tokens were chosen: `python -m benchmarks.modular.tuning`.

The bench trains ten held-out concepts first (`python -m benchmarks.modular --out runs/held --counts 10 --seeds 2000
--methods token`). Nothing is drawn here. While one token is tuned, the other adapters are stronger, so that together
they put out as much as --others independent ones. Prints the error of the layers before and after (see
`merge.tune_tokens`), and how much of a concept's own output is there afterwards, as means over every second concept.
Writes tuning.json and tuning.md into --out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.core.report import write_rows
from benchmarks.modular.layer_error import Options as Run
from benchmarks.modular.layer_error import read_adapters
from benchmarks.modular.pocket.words import training_words
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.token_tuning import Tuned, tune
from blocklora_jax.probing.tuned_token import TuningConfig
from merge.compose import compose

_COLUMNS = ("steps", "rate", "prompts in a step", "weight of (1 - s)^2", "error before", "error", "s")
# steps, learning rate, prompts in a step, weight of the strength.
TRIED = (
    (30, 0.1, 8, 0.0), (60, 0.03, 8, 0.0), (60, 0.1, 8, 0.0), (60, 0.3, 8, 0.0), (120, 0.03, 8, 0.0),
    (120, 0.1, 8, 0.0), (240, 0.1, 8, 0.0), (120, 0.1, 4, 0.0), (120, 0.2, 4, 0.0), (120, 0.2, 4, 3.0),
    (120, 0.2, 4, 10.0),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which concepts, and how many others are imitated."""

    run: Path = Path("runs/held")
    """The --out of a run of the bench."""
    seed: int = 2000
    """One of the run's seeds."""
    concepts: int = 10
    others: int = 59
    """How many other concepts the merge has, in effect."""
    out: Path = Path("runs/tuning")

    def __post_init__(self) -> None:
        check_options(self, {"concepts": Bound(2, 1000)})


def tune_one(
    sd: StableDiffusion, adapters: Sequence[Adapter], index: int, strength: float, config: TuningConfig
) -> Tuned:
    """The tuned token of one adapter, where all others have the weight `strength`."""
    weights = [1.0 if place == index else strength for place in range(len(adapters))]
    merged = compose(sd.checkpoint.params, adapters, weights)
    return next(tune(sd, merged, [adapters[index]], [1.0], training_words(), config))


def measure(options: Options, sd: StableDiffusion) -> Iterator[dict[str, Any]]:
    """A row for each of the settings that were tried: means over every second concept."""
    adapters = read_adapters(Run(run=options.run, seed=options.seed, counts=(options.concepts,)))
    strength = float(np.sqrt(options.others / (len(adapters) - 1)))
    for steps, rate, chunk, weight in TRIED:
        config = TuningConfig(steps=steps, learning_rate=rate, chunk=chunk, strength_weight=weight)
        tuned = [tune_one(sd, adapters, i, strength, config) for i in range(0, len(adapters), 2)]
        means = {name: float(np.mean([getattr(t, name) for t in tuned])) for name in ("before", "after", "share")}
        yield {"steps": steps, "learning_rate": rate, "chunk": chunk, "strength_weight": weight} | means


def cells_of(row: dict[str, Any]) -> list[str]:
    """A line of the table."""
    settings = [f"{row[name]:g}" for name in ("steps", "learning_rate", "chunk", "strength_weight")]
    return [*settings, *(f"{row[name]:.3f}" for name in ("before", "after", "share"))]


def main() -> None:
    """The command line."""
    options, sd = read_options(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    write_rows(measure(options, sd), cells_of, _COLUMNS, options.out / "tuning")


if __name__ == "__main__":
    run(main)
