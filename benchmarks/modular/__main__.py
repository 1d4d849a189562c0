"""Fifteen concepts at once, by every method: `python -m benchmarks.modular`.

Concepts of the little world (people, animals, objects, scenes, styles) are taught apart from each other, by BlockLoRA
and by its rivals with as many trained parameters, steps and pictures; then merged; then drawn in new settings and
measured (see measure.py). Everything is kept under --out and used again under the same conditions; all is seeded.
Writes report.json, table.md, crosstalk.json (what all other adapters add to a concept's own output, by recipe), curves,
heat maps and picture grids there.

On a real model, with real concepts (needs PyTorch, and OpenCV to know people by their faces: pip install
'blocklora_jax[torch,bench,faces]'; the measures are defined in real.py):

    python -m benchmarks.modular --model stable-diffusion-v1-5/stable-diffusion-v1-5 --concepts DIR
        --config configs/sd15.yaml --steps 1000 --batch 2 --at-once 2 --prompts 20 --counts 1 2 5 10 15 --out runs/real

DIR holds a folder of pictures for each concept, with a concept.yaml as `train.concepts` reads it: `class_noun: dog` and
`kind: object` (person, object, scene or style); captions and masks may lie beside the pictures. The first n by name are
merged. --config gives the settings of the training that fit the model, prompts are those of sentences.yaml or
--sentences, --encoders.* are hub ids or folders of who measures. A table for each kind follows the one of all.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.modular.core import figures
from benchmarks.modular.core.evaluate import Bench, keep_to
from benchmarks.modular.core.measures import World
from benchmarks.modular.core.methods import METHODS, Method, check_known
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.core.report import SHORT, by_kind, markdown, summarise
from benchmarks.modular.core.teach import teach
from benchmarks.modular.worlds.encoder_measures import Encoders
from benchmarks.modular.worlds.table import POCKET, real_world
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.pipeline import StableDiffusion

SHOWN = ("wide", "wide_3_fused", "blocklora_1", "orthogonal", "sum", "fusion")
# A check of a few minutes: every recipe but one, every sort of merge.
QUICK = ("wide", "wide_fused", "blocklora", "orthogonal", "preservation", "sum", "ties")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Teach, merge and measure."""

    quick: bool = False
    """Three concepts, few steps: a check that all of it runs, no measurement."""
    table: bool = False
    """Teach and draw nothing: the table and the curves of the results that are already under --out."""
    out: Path = Path("runs/modular")
    methods: tuple[str, ...] = ()
    """Among those of methods.py; all that the model has if not given."""
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
        needs = {"config": self.config, "size": self.size, "sentences": self.sentences}
        if self.concepts is None and (given := [name for name, value in needs.items() if value is not None]):
            raise UserError(f"--{given[0]} is for real concepts: give --concepts DIR too")

    @property
    def settings(self) -> dict[str, Any]:
        """Of `train.concept`, for all trainings but for what their recipe says."""
        own = {"config": str(self.config) if self.config else None, "resolution": self.size}
        found = {name: value for name, value in own.items() if value is not None}
        return {**found, "steps": self.steps, "batch": self.batch, "model": self.model}

    @property
    def of_real_concepts(self) -> dict[str, Any]:
        """What else their results depend on, as JSON; nothing in the pocket world."""
        if self.concepts is None:
            return {}
        named = {"config": self.config, "sentences": self.sentences, "encoders": self.encoders}
        return {"size": self.size, **{name: str(value) for name, value in named.items()}}

    @property
    def blocks(self) -> int:
        """Slots for all concepts."""
        return max(16, *self.counts)


@dataclass
class Results:
    """Lists over seeds: by recipe, by (method, n), and of the base."""

    alone: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))
    merged: dict[tuple[str, int], list[dict]] = field(default_factory=lambda: defaultdict(list))
    base: list[dict] = field(default_factory=list)


def available(names: Sequence[str], world: World) -> tuple[str, ...]:
    """Those methods, or all whose recipe the world has. Raises: UserError for one that it has no recipe for."""
    known = [name for name, method in METHODS.items() if method.recipe in world.recipes]
    if missing := [name for name in names if name not in known]:
        raise UserError(f"--methods {missing[0]} is for the pocket model only: choose among {'; '.join(known)}")
    return tuple(names or known)


def measure(options: Options, world: World, sd: StableDiffusion, seed: int) -> tuple[Bench, dict[str, list[Adapter]]]:
    """Teach and measure one seed's concepts; the results are kept in the bench's folder, where `gather` reads them."""
    count = max(options.counts)
    concepts = world.concepts(count, seed)
    recipes = dict.fromkeys(METHODS[name].recipe for name in options.methods)
    adapters, folder = {}, options.out / f"seed-{seed}"
    keep_to(folder / "results", sd, options, concepts, seed, options.of_real_concepts)
    for recipe in recipes:
        say(f"seed {seed}: {recipe}: teaching {count} concepts")
        settings = {**options.settings, "seed": seed, **world.recipes[recipe]}
        adapters[recipe] = teach(
            concepts, settings, folder / recipe, options.at_once, options.blocks, write=world.write
        )
    artist = Artist(sd, adapters[next(iter(recipes))], seed, options.sampler_steps, options.size)
    measures = world.measures(sd, concepts, seed)
    bench = Bench(concepts, artist, measures, folder / "results", options.prompts, tasks=world.tasks)
    bench.cached("base", bench.base)
    bench.cached("drawn-pairs", bench.drawn_pairs)
    for recipe, group in adapters.items():
        say(f"seed {seed}: {recipe}: alone")
        bench.cached(f"{recipe}-alone", lambda group=group: bench.alone(group))
    for name in options.methods:
        method = METHODS[name]
        for n in sorted(n for n in options.counts if n > 1):
            say(f"seed {seed}: {name}: {n} merged")
            measure_merged(bench, name, n, method, adapters[method.recipe][:n])
    return bench, adapters


def gather(options: Options) -> Results:
    """The results under --out. Raises: UserError for one that is not there."""
    results = Results()
    for seed in options.seeds:
        folder = options.out / f"seed-{seed}" / "results"
        results.base.append(_read(folder, "base") | _read(folder, "drawn-pairs"))
        for recipe in dict.fromkeys(METHODS[name].recipe for name in options.methods):
            results.alone[recipe].append(_read(folder, f"{recipe}-alone"))
        for name in options.methods:
            for n in sorted(n for n in options.counts if n > 1):
                results.merged[name, n].append(_read(folder, f"{name}-{n}"))
    return results


def _read(folder: Path, name: str) -> dict:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise UserError(
            f"{path} is not there: measure it first (without --table), or name other --methods, --counts, --seeds"
        )
    return json.loads(path.read_text())


def measure_merged(bench: Bench, name: str, n: int, method: Method, group: list[Adapter]) -> dict:
    """The first n merged, at the best of the strengths that the method may choose from."""
    weight = method.weights[0]
    if len(method.weights) > 1:
        weight = bench.cached(f"{name}-{n}-search", lambda: bench.search_strength(method, group))["weight"]
    return bench.cached(f"{name}-{n}", lambda: bench.merged(method, group, weight))


def draw(options: Options, world: World, bench: Bench, adapters: dict[str, list[Adapter]]) -> None:
    """Crosstalk and pictures, of the last seed."""
    count = max(options.counts)
    shown = [name for name in SHOWN if name in options.methods] or list(options.methods[:1])
    write_json(options.out / "crosstalk.json", figures.draw_crosstalk(bench.artist.sd, adapters, options.out))
    drawn = {f"{count} merged: {METHODS[n].label}": bench.pictures(f"{n}-{count}") for n in shown}
    first = METHODS[shown[0]].recipe
    alone = bench.pictures(f"{first}-alone")
    figures.draw_grid(bench.concepts[:8], alone, drawn, options.out / "grid.png", world.reference)
    pairs = [p.text for p in world.tasks.pair_prompts(bench.concepts, bench.pairs)][:8]
    stylised = [p.text for p in world.tasks.stylised_prompts(bench.concepts, bench.pairs)][:8]
    by_prompt = next(iter(drawn.values()))
    if pairs:
        figures.draw_together({label: own["pairs"] for label, own in drawn.items()}, pairs, options.out / "pairs.png")
        real = bench.pictures("drawn-pairs")
        columns = ({"drawings": real["pairs"]} if real else {}) | {"by the prompt alone": by_prompt["pairs"]}
        figures.draw_together(columns | apart(drawn, shown, "apart"), pairs, options.out / "apart.png")
    if stylised:
        columns = {"by the prompt alone": by_prompt["stylised"]} | apart(drawn, shown, "stylised_apart")
        figures.draw_together(columns, stylised, options.out / "stylised.png")


def apart(drawn: Mapping[str, Mapping[str, np.ndarray]], methods: Sequence[str], task: str) -> dict[str, np.ndarray]:
    """A task's pictures with the concepts side by side. drawn: every method's pictures, in the methods' order."""
    return {f"side by side, {METHODS[n].label}": own[task] for n, own in zip(methods, drawn.values(), strict=True)}


def say(words: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def write_report(options: Options, world: World, results: Results, kinds: dict[str, str]) -> list[dict]:
    """report.json and table.md, for real concepts by kind too; gives the rows. kinds: of the concepts, by name."""
    count, lines = max(options.counts), []
    rows = summarise(results.alone, results.merged, results.base)
    report: dict[str, Any] = {"options": str(options), "rows": rows}
    short, full = (markdown(rows, count, world.ceiling, only) for only in (SHORT, ()))
    if options.concepts:
        report |= {"identity": options.encoders.told, "kinds": {}}
        lines = ["", f"Identity: {options.encoders.told}."]
        for kind in dict.fromkeys(kinds.values()):
            names = {name for name, other in kinds.items() if other == kind}
            found = summarise(*by_kind(results.alone, results.merged, results.base, names))
            report["kinds"][kind] = found
            lines += ["", f"{kind}: {len(names)}", "", markdown(found, count, world.ceiling)]
    write_json(options.out / "report.json", report)
    table = [short, "", "All that was measured:", "", full, *lines]
    write_atomic(options.out / "table.md", "\n".join(table).encode())
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    options = read_options(Options, args, description=__doc__)
    if options.quick:
        # Nothing of an earlier check is used again.
        shutil.rmtree(options.out / "quick", ignore_errors=True)
        options = replace(
            options, out=options.out / "quick", methods=options.methods or QUICK, counts=(1, 3), steps=4, batch=2,
            at_once=3,
            prompts=4, sampler_steps=2,
        )  # fmt: skip
    sd, world = StableDiffusion.from_pretrained(options.model), POCKET
    if options.concepts is None and not (sd.checkpoint.tokenizer.parent / "image_encoder").is_dir():
        raise UserError(f"--model {options.model} knows nothing of the pocket world: give --concepts DIR too")
    if options.concepts:
        world = real_world(
            sd, options.concepts, options.settings, options.blocks, options.encoders, options.sentences, options.size
        )
    options = replace(options, methods=available(options.methods, world))
    kinds = {c.name: c.kind for c in world.concepts(max(options.counts), options.seeds[-1])}
    measured = [measure(options, world, sd, seed) for seed in options.seeds if not options.table]
    rows = write_report(options, world, gather(options), kinds)
    figures.draw_curves(rows, options.out / "curves.png")
    if measured:
        draw(options, world, *measured[-1])
    print(f"{(options.out / 'table.md').read_text()}\n\nfigures and report.json are in {options.out}")


if __name__ == "__main__":
    run(main)
