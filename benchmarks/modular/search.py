"""Choose the settings of the token side on held-out concepts: `python -m benchmarks.modular.search`.

Each variant teaches the same five concepts of seed 2000, which no table measures. They are measured alone, merged, and
under pressure: for each concept, all others have a strength of sqrt((n - 1) / 4), which gives their output the size
that n - 1 independent ones would have. Results are kept under --out and used again; --only selects variants. Prints a
table, and writes search.md, search.json and search.png: identity against text alignment, individuals only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.__main__ import say
from benchmarks.modular.core.evaluate import Bench, keep_to
from benchmarks.modular.core.methods import FEATURE_BLOCKS, RECIPES, Method, check_known
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.core.report import write_rows
from benchmarks.modular.core.teach import teach
from benchmarks.modular.pocket.concepts import HELD_OUT_SEED, draw_concepts
from benchmarks.modular.pocket.measures import Measures
from benchmarks.modular.pocket.words import TRAINING_WORDS
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.world.specs import Individual
from blocklora_jax.probing.crosstalk import ALL, measure_crosstalk

TEXT_BLOCKS: dict[str, Any] = FEATURE_BLOCKS | {"rank": 8, "blocks": 64, "basis": "pocket", "assignment": "text"}
TOKEN_SIDE: dict[str, Any] = {
    **TEXT_BLOCKS, "token_side": 0.1, "token_side_margin": 3.9, "token_norm_limit": 3.0,
    "token_start": "codeword", "negatives_from": "codewords",
}  # fmt: skip
STRONG = TOKEN_SIDE | {"token_side": 0.3, "token_side_margin": 4.6}

AT_TOKEN = TOKEN_SIDE | {"token_side_own": "token"}

VARIANTS: dict[str, dict[str, Any]] = {
    "one block, lambda 3": RECIPES["wide_3"],
    "64 blocks": TEXT_BLOCKS,
    "64, tau 3.9, mu .1": TOKEN_SIDE,
    "64, tau 4.6, mu .3": STRONG,
    "64, tau 4.6, mu .3, limit 2": STRONG | {"token_norm_limit": 2.0},
    "64, tau 4.6, mu .3, noun": STRONG | {"token_start": "noun"},
    "64, tau 3.9, mu .1, own at the token": TOKEN_SIDE | {"token_side_own": "token"},
    "64, tau 3.9, mu .1, own at the token, noun": TOKEN_SIDE | {"token_side_own": "token", "token_start": "noun"},
    "64, tau 3.9, mu .1, lambda .1": TOKEN_SIDE | {"lambda": 0.1},
    "64, own at the token, lambda 3": AT_TOKEN | {"lambda": 3.0},
    "64, own at the token, lambda 10": AT_TOKEN | {"lambda": 10.0},
    "64, own at the token, lambda 3, tau 4.8": AT_TOKEN | {"lambda": 3.0, "token_side_margin": 4.8},
    "64, own at the token, lambda 3, rate .008": AT_TOKEN | {"lambda": 3.0, "learning_rate": 8e-3},
    "16, own at the token, tau 4, lambda 3": AT_TOKEN
    | {"blocks": 16, "token_side_margin": 4.0, "rank": 16, "lambda": 3.0},
    "64, own at the token, lambda 10, rate .016": AT_TOKEN | {"lambda": 10.0, "learning_rate": 1.6e-2},
    "64, own at the token, lambda 5, rate .012": AT_TOKEN | {"lambda": 5.0, "learning_rate": 1.2e-2},
    "16, own at the token, lambda 5, rate .008": AT_TOKEN
    | {"blocks": 16, "token_side_margin": 3.0, "rank": 16, "lambda": 5.0, "learning_rate": 8e-3},
    "64, own at the token, lambda 10, rate .008": AT_TOKEN | {"lambda": 10.0, "learning_rate": 8e-3},
    "16, own at the token, tau 3, lambda 10": AT_TOKEN
    | {"blocks": 16, "token_side_margin": 3.0, "rank": 16, "lambda": 10.0},
    "64, own at the token, 4 vectors, lambda 3": AT_TOKEN | {"token_vectors": 4, "lambda": 3.0},
    "32, own at the token, tau 3.5": AT_TOKEN | {"blocks": 32, "token_side_margin": 3.5, "rank": 16},
    "16, own at the token, tau 3": AT_TOKEN | {"blocks": 16, "token_side_margin": 3.0, "rank": 16},
    "128, own at the token, lambda 5, rate .012": RECIPES["token_128"],
    "128, own at the token, lambda 10, rate .012": RECIPES["token_128"] | {"lambda": 10.0},
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach and measure the variants."""

    out: Path = Path("runs/search")
    only: tuple[str, ...] = tuple(VARIANTS)
    concepts: int = 5
    pressure: tuple[int, ...] = (15, 60)
    """How many merged concepts the pressure imitates."""
    steps: int = 300
    batch: int = 6
    seed: int = HELD_OUT_SEED
    prompts: int = 8
    sampler_steps: int = 12

    def __post_init__(self) -> None:
        check_options(self)
        check_known("--only", self.only, VARIANTS)


def folder_name(variant: str) -> str:
    """Where a variant's results are, under --out."""
    return variant.replace(" ", "-").replace(",", "")


def measure(options: Options, sd: StableDiffusion, name: str) -> dict[str, Any]:
    """Alone, merged, under pressure, and crosstalk of one variant."""
    say(name)
    concepts, folder = draw_concepts(options.concepts, options.seed), options.out / folder_name(name)
    settings = {
        "steps": options.steps,
        "batch": options.batch,
        "seed": options.seed,
        **TRAINING_WORDS,
        **VARIANTS[name],
    }
    keep_to(folder / "results", sd, options, concepts, options.seed, TRAINING_WORDS)
    adapters = teach(concepts, sd, settings, folder, options.concepts)
    artist = Artist(sd, adapters, options.seed, options.sampler_steps)
    bench = Bench(concepts, artist, Measures(sd, concepts, options.seed), folder / "results", options.prompts, pairs=0)
    found: dict[str, Any] = {"variant": name, "alone": bench.cached("alone", lambda: bench.alone(adapters))}
    method = Method(name, name, lambda sd, group: sd.with_adapters(group, allow_overlap=True))
    found["merged"] = bench.cached("merged", lambda: bench.merged(method, adapters, {}))
    for count in options.pressure:
        found[f"as {count}"] = bench.cached(f"as-{count}", lambda count=count: under_pressure(bench, adapters, count))
    found["crosstalk"] = bench.cached("crosstalk", lambda: (_crosstalk(sd, adapters), {}))["others"]
    found["individuals"] = [c.name for c in concepts if isinstance(c.thing, Individual)]
    return found


def _crosstalk(sd: StableDiffusion, adapters: Sequence[Adapter]) -> dict[str, float]:
    return {"others": float(measure_crosstalk(sd, adapters)[ALL].others.mean())}


def under_pressure(
    bench: Bench, adapters: Sequence[Adapter], count: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Each concept at strength 1 while the others are as strong as `count` - 1; drift with all as strong as `count`."""
    rows, drawn, sd = {}, {}, bench.artist.sd
    strength = ((count - 1) / (len(adapters) - 1)) ** 0.5
    for index, concept in enumerate(bench.concepts):
        weights = [1.0 if i == index else strength for i in range(len(adapters))]
        model = sd.with_adapters(adapters, weights, allow_overlap=True)
        prompts = bench.tasks.concept_prompts(concept, bench.prompts)
        drawn[concept.name] = bench.artist.draw([p.text for p in prompts], concept.name, model)
        rows[concept.name] = bench.score(concept, drawn[concept.name], [p.plain for p in prompts], bench.concepts)
    model = sd.with_adapters(adapters, [(count / len(adapters)) ** 0.5] * len(adapters), allow_overlap=True)
    plain = bench.tasks.plain_prompts(bench.concepts)
    drawn["plain"], base = (bench.artist.draw(plain, "plain", m) for m in (model, sd))
    drift = np.abs(drawn["plain"].astype(np.float32) - base).mean((1, 2, 3)) / 255
    return {"concepts": rows, "drift": drift.tolist()}, drawn


def mean_of(result: Mapping[str, Any], names: Sequence[str], score: str) -> float:
    """A score's mean over all pictures of the named concepts."""
    return float(np.mean([result["concepts"][name][score] for name in names]))


def measure_all(options: Options, sd: StableDiffusion) -> Iterator[dict[str, Any]]:
    """Every variant."""
    yield from (measure(options, sd, name) for name in options.only)


def numbers_of(found: Mapping[str, Any]) -> dict[str, float]:
    """What the table says of a variant; identity and text are of individuals."""
    stages = [key for key in found if key in ("alone", "merged") or key.startswith("as ")]
    numbers = {f"identity {s}": mean_of(found[s], found["individuals"], "identity") for s in stages}
    numbers |= {f"text {s}": mean_of(found[s], found["individuals"], "text") for s in stages}
    numbers |= {f"drift {s}": float(np.mean(found[s]["drift"])) for s in stages if s != "alone"}
    every = list(found["alone"]["concepts"])
    numbers |= {f"all: identity {s}": mean_of(found[s], every, "identity") for s in stages}
    return numbers | {"crosstalk": found["crosstalk"], "trained": found["alone"]["parameters"]}


def cells_of(found: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    return [found["variant"], *(f"{v:,.0f}" if v >= 100 else f"{v:.3f}" for v in numbers_of(found).values())]


def columns_of(options: Options) -> list[str]:
    """The head of the table."""
    stages = ["alone", "merged", *(f"as {count}" for count in options.pressure)]
    columns = [
        f"{score} {s}" for score in ("identity", "text", "drift") for s in stages if (score, s) != ("drift", "alone")
    ]
    return ["variant", *columns, *(f"all: identity {s}" for s in stages), "crosstalk", "trained"]


def draw_frontier(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Identity against text alignment of every variant, one panel for each stage; the best are at the upper right."""
    from matplotlib.figure import Figure

    numbers = {found["variant"]: numbers_of(found) for found in rows}
    stages = [name.removeprefix("identity ") for name in next(iter(numbers.values())) if name.startswith("identity ")]
    figure = Figure(figsize=(5 * len(stages), 7), layout="constrained")
    for axes, stage in zip(np.atleast_1d(figure.subplots(1, len(stages))), stages, strict=True):
        for index, (variant, values) in enumerate(numbers.items()):
            point = values[f"identity {stage}"], values[f"text {stage}"]
            axes.scatter(*point, color=f"C{index % 10}", label=f"{index + 1}: {variant}")
            axes.annotate(f" {index + 1}", point)
        axes.set(title=stage if stage in ("alone", "merged") else f"merged {stage}", xlabel="identity", ylabel="text")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())


def main() -> None:
    """The command line."""
    options, sd = read_options(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    write_rows(measure_all(options, sd), cells_of, columns_of(options), options.out / "search")
    draw_frontier(json.loads((options.out / "search.json").read_text()), options.out / "search.png")


if __name__ == "__main__":
    run(main)
