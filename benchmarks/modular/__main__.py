"""Fifteen concepts at once, by every method: `python -m benchmarks.modular`.

Concepts of the little world (people, animals, objects, scenes, styles) are taught apart from each other, by BlockLoRA and by its
rivals with as many trained parameters, steps and pictures; then merged; then drawn in new settings and measured
(see measure.py). Everything is kept under --out and used again; all is seeded. Writes report.json, table.md, curves,
heat maps and picture grids there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from benchmarks.modular import figures
from benchmarks.modular.concepts import draw_concepts
from benchmarks.modular.evaluate import Bench
from benchmarks.modular.measure import Measures
from benchmarks.modular.methods import METHODS, RECIPES, Method
from benchmarks.modular.pictures import Artist
from benchmarks.modular.prompts import pair_prompts, stylised_prompts
from benchmarks.modular.report import markdown, summarise
from benchmarks.modular.teach import teach
from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.command import run
from blocklora_jax.files import write_atomic, write_json
from blocklora_jax.pipeline import StableDiffusion

SHOWN = ("wide", "blocklora", "sum", "average", "fusion")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach, merge and measure."""

    quick: bool = False
    """Three concepts, few steps: a check that all of it runs, no measurement."""
    out: Path = Path("runs/modular")
    methods: tuple[str, ...] = tuple(METHODS)
    counts: tuple[int, ...] = (1, 2, 5, 10, 15)
    """How many concepts are merged; the greatest is how many are taught."""
    seeds: tuple[int, ...] = (0,)
    """Each has concepts, trainings and noise of its own."""
    steps: int = 500
    batch: int = 6
    at_once: int = 5
    """How many concepts train in one program."""
    prompts: int = 8
    """Pictures of each concept."""
    sampler_steps: int = 20
    model: str = "pocket"


@dataclass
class Results:
    """Lists over seeds: by recipe, by (method, n), and of the base."""

    alone: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))
    merged: dict[tuple[str, int], list[dict]] = field(default_factory=lambda: defaultdict(list))
    base: list[dict] = field(default_factory=list)


def measure(
    options: Options, sd: StableDiffusion, seed: int, results: Results
) -> tuple[Bench, dict[str, list[Adapter]]]:
    """Teach and measure one seed's concepts."""
    count = max(options.counts)
    concepts = draw_concepts(count, seed)
    recipes = dict.fromkeys(METHODS[name].recipe for name in options.methods)
    adapters, folder = {}, options.out / f"seed-{seed}"
    for recipe in recipes:
        say(f"seed {seed}: {recipe}: teaching {count} concepts")
        settings = {
            "steps": options.steps,
            "batch": options.batch,
            "seed": seed,
            "model": options.model,
            **RECIPES[recipe],
        }
        adapters[recipe] = teach(concepts, settings, folder / recipe, options.at_once, max(16, count))
    artist = Artist(sd, adapters[next(iter(recipes))], seed, options.sampler_steps)
    bench = Bench(concepts, artist, Measures(sd, concepts, seed), folder / "results", options.prompts)
    results.base.append(bench.cached("base", bench.base))
    for recipe, group in adapters.items():
        say(f"seed {seed}: {recipe}: alone")
        results.alone[recipe].append(bench.cached(f"{recipe}-alone", lambda group=group: bench.alone(group)))
    for name in options.methods:
        method = METHODS[name]
        for n in sorted(n for n in options.counts if n > 1):
            say(f"seed {seed}: {name}: {n} merged")
            group = adapters[method.recipe][:n]
            results.merged[name, n].append(measure_merged(bench, name, n, method, group))
    return bench, adapters


def measure_merged(bench: Bench, name: str, n: int, method: Method, group: list[Adapter]) -> dict:
    """The first n merged, at the best of the strengths that the method may choose from."""
    weight = method.weights[0]
    if len(method.weights) > 1:
        weight = bench.cached(f"{name}-{n}-search", lambda: bench.search_strength(method, group))["weight"]
    return bench.cached(f"{name}-{n}", lambda: bench.merged(method, group, weight))


def draw(options: Options, bench: Bench, adapters: dict[str, list[Adapter]], rows: Sequence[dict]) -> None:
    """All figures, of the last seed."""
    count = max(options.counts)
    shown = [name for name in SHOWN if name in options.methods]
    figures.draw_curves(rows, options.out / "curves.png")
    figures.draw_crosstalk(bench.artist.sd, adapters, options.out)
    drawn = {f"{METHODS[n].label}, {count} merged": bench.pictures(f"{n}-{count}") for n in shown}
    first = METHODS[shown[0]].recipe
    figures.draw_grid(bench.concepts, bench.pictures(f"{first}-alone"), drawn, options.out / "grid.png")
    for task, pairs in (("pairs", pair_prompts), ("stylised", stylised_prompts)):
        prompts = [p.text for p in pairs(bench.concepts, bench.pairs)]
        if prompts:
            figures.draw_together(drawn, prompts[:8], task, options.out / f"{task}.png")


def say(words: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def main() -> None:
    """The command line."""
    options = tyro.cli(Options, description=__doc__)
    if options.quick:
        options = Options(
            quick=True, out=options.out, methods=options.methods, counts=(1, 3), steps=6, batch=2, at_once=3, prompts=4, sampler_steps=2
        )  # fmt: skip
    sd, results = StableDiffusion.from_pretrained(options.model), Results()
    for seed in options.seeds:
        bench, adapters = measure(options, sd, seed, results)
    rows = summarise(results.alone, results.merged, results.base)
    write_json(options.out / "report.json", {"options": str(options), "rows": rows})
    table = markdown(rows, max(options.counts))
    write_atomic(options.out / "table.md", table.encode())
    draw(options, bench, adapters, rows)
    print(f"{table}\n\nfigures and report.json are in {options.out}")


if __name__ == "__main__":
    run(main)
