"""Which learning rate suits each recipe best: `python -m benchmarks.modular.rates`.

The concepts are neither those that the bench measures nor those of the packaged negative tokens. Every recipe is
trained at every rate. A rate is judged by the identity alone and by the identity of all merged, by each method of the
recipe at its best strength. docs/ablation.md gives the decision. Results are kept under --out and used again;
rates.md and rates.json are written there. `--concepts 15 --seed 0` takes the bench's own concepts. Use another --out
for each such choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.modular.__main__ import measure_merged, say
from benchmarks.modular.core.evaluate import Bench, keep_to
from benchmarks.modular.core.methods import METHODS, RECIPES, check_known
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.core.report import mean_over, write_rows
from benchmarks.modular.core.teach import teach
from benchmarks.modular.pocket.concepts import HELD_OUT_SEED, draw_concepts
from benchmarks.modular.pocket.measures import Measures
from benchmarks.modular.pocket.words import TRAINING_WORDS
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.pipeline import StableDiffusion

# Recipes, and the methods that merge what they give.
MERGED_BY = {
    "wide": ("wide",),
    "plain": ("sum", "average", "ties", "fusion", "plain_fused"),
    "orthogonal": ("orthogonal",),
    "preservation": ("preservation",),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach and measure recipes at several learning rates."""

    out: Path = Path("runs/rates")
    recipes: tuple[str, ...] = tuple(MERGED_BY)
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
    concepts: int = 5
    steps: int = 300
    batch: int = 6
    seed: int = HELD_OUT_SEED
    prompts: int = 6
    sampler_steps: int = 12

    def __post_init__(self) -> None:
        check_options(self)
        check_known("--recipes", self.recipes, MERGED_BY)


def measure(options: Options, sd: StableDiffusion, recipe: str, rate: float) -> dict[str, Any]:
    """Identity alone, and merged by method."""
    say(f"{recipe}, learning rate {rate:g}")
    concepts = draw_concepts(options.concepts, options.seed)
    folder = options.out / f"{recipe}-{rate:g}"
    own = {**RECIPES[recipe], "learning_rate": rate}
    settings = {"steps": options.steps, "batch": options.batch, "seed": options.seed, **TRAINING_WORDS, **own}
    keep_to(folder / "results", sd, options, concepts, options.seed, TRAINING_WORDS)
    adapters = teach(concepts, sd, settings, folder, 5)
    artist = Artist(sd, adapters, options.seed, options.sampler_steps)
    bench = Bench(concepts, artist, Measures(sd, concepts, options.seed), folder / "results", options.prompts)
    alone = mean_over([bench.cached("alone", lambda: bench.alone(adapters))], "identity")[0]
    merged = {m: measure_merged(bench, m, options.concepts, METHODS[m], adapters) for m in MERGED_BY[recipe]}
    found = {
        m: {"identity": mean_over([r], "identity")[0], "strength": r["settings"].get("weight", 1.0)}
        for m, r in merged.items()
    }
    return {"recipe": recipe, "rate": rate, "alone": alone, "merged": found}


def cells_of(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    merged = [f"{METHODS[m].label} {r['identity']:.3f} (at {r['strength']:g})" for m, r in found["merged"].items()]
    return [found["recipe"], f"{found['rate']:g}", f"{found['alone']:.3f}", ", ".join(merged)]


def main() -> None:
    """The command line."""
    options, sd = read_options(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    found = (measure(options, sd, recipe, rate) for recipe in options.recipes for rate in options.rates)
    write_rows(found, cells_of, ("recipe", "learning rate", "identity alone", "all merged"), options.out / "rates")


if __name__ == "__main__":
    run(main)
