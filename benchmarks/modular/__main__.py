"""Fifteen concepts at once, by every method: `python -m benchmarks.modular`.

Concepts of the little world (people, animals, objects, scenes, styles) are taught apart from each other, by BlockLoRA
and by its rivals with as many trained parameters, steps and pictures; then merged; then drawn in new settings and
measured (see core/measures.py). Everything is kept under --out and used again under the same conditions; all is seeded.
Writes report.json, table.md, crosstalk.json (what all other adapters add to a concept's own output, by recipe), curves,
heat maps, picture grids, and speech.png (in which blocks of the text basis each token speaks) there.

On a real model, with real concepts (needs PyTorch, and OpenCV to know people by their faces: pip install
'blocklora_jax[torch,bench,faces]'; the measures are defined in worlds/encoder_measures.py):

    python -m benchmarks.modular --model stable-diffusion-v1-5/stable-diffusion-v1-5 --concepts DIR
        --config configs/sd15.yaml --steps 1000 --batch 2 --at-once 2 --prompts 20 --counts 1 2 5 10 15 --seeds 0
        --out runs/real

DIR holds a folder of pictures for each concept, with a concept.yaml as `train.concepts` reads it: `class_noun: dog` and
`kind: object` (person, object, scene or style); captions and masks may lie beside the pictures. The first n by name are
merged. --config gives the settings of the training that fit the model, prompts are those of sentences.yaml or
--sentences, --encoders.* are hub ids or folders of the models that measure. There is a table for each kind.
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
from benchmarks.modular.core.methods import METHODS, RECIPES, Method
from benchmarks.modular.core.pictures import Artist
from benchmarks.modular.core.report import SHORT, by_name, markdown, summarise
from benchmarks.modular.core.speech import draw_speech, token_speech
from benchmarks.modular.core.teach import teach
from benchmarks.modular.options import HEADLINE, QUICK, Options
from benchmarks.modular.worlds.table import POCKET, real_world
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import load_text_basis
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.pipeline import StableDiffusion

SHOWN = ("token", "token_fit", "wide_3_fused", "blocklora_1", "orthogonal", "sum", "fusion")


@dataclass
class Results:
    """Lists over seeds: by recipe, by (method, n), and of the base."""

    alone: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))
    merged: dict[tuple[str, int], list[dict]] = field(default_factory=lambda: defaultdict(list))
    base: list[dict] = field(default_factory=list)


def available(names: Sequence[str], world: World) -> tuple[str, ...]:
    """Those methods, or the README's with a recipe in the world. Raises: UserError for one without a recipe in it."""
    known = [name for name, method in METHODS.items() if method.recipe in world.recipes]
    if missing := [name for name in names if name not in known]:
        raise UserError(
            f"--methods {missing[0]} needs a basis of this model's text: give a --config with one (see python -m"
            f" train.basis --help), or choose among {'; '.join(known)}"
        )
    return tuple(names or (name for name in HEADLINE if name in known))


def measured_on(methods: Sequence[str], seed: int, seeds: Sequence[int]) -> list[str]:
    """Those methods that are measured on a seed: all on the first, on others all but those that are measured once."""
    return [name for name in methods if seed == seeds[0] or not METHODS[name].once]


def teach_all(options: Options, world: World, sd: StableDiffusion, seed: int) -> dict[str, list[Adapter]]:
    """The adapters of one seed's concepts, or of the options' share of them, by recipe; they are kept in files."""
    count, folder = max(options.counts), options.out / f"seed-{seed}"
    concepts = world.concepts(count, seed)
    keep_to(folder / "results", sd, options, concepts, seed, {**world.settings, **options.of_real_concepts})
    adapters = {}
    for recipe in dict.fromkeys(METHODS[name].recipe for name in measured_on(options.methods, seed, options.seeds)):
        say(f"seed {seed}: {recipe}: teaching {count} concepts" + (f", share {options.shard}" if options.shard else ""))
        settings = {**options.settings, **world.settings, "seed": seed, **world.recipes[recipe]}
        adapters[recipe] = teach(
            concepts, sd, settings, folder / recipe, options.at_once, options.blocks, 1, world.write, options.share
        )
    return adapters


def measure(options: Options, world: World, sd: StableDiffusion, seed: int) -> tuple[Bench, dict[str, list[Adapter]]]:
    """Teach and measure one seed's concepts; the results are kept in the bench's folder, where `gather` reads them."""
    adapters, folder = teach_all(options, world, sd, seed), options.out / f"seed-{seed}"
    concepts = world.concepts(max(options.counts), seed)
    artist = Artist(sd, next(iter(adapters.values())), seed, options.sampler_steps, options.size)
    measures = world.measures(sd, concepts, seed)
    pairs = 2 if options.quick else Bench.pairs
    bench = Bench(concepts, artist, measures, folder / "results", options.prompts, pairs, tasks=world.tasks)
    say(f"seed {seed}: {len(concepts)} concepts: the base model, and real drawings")
    bench.cached("base", bench.base)
    bench.cached("drawn-pairs", bench.drawn_pairs)
    for recipe, group in adapters.items():
        say(f"seed {seed}: {recipe}: alone")
        bench.cached(f"{recipe}-alone", lambda group=group: bench.alone(group))
    for name in measured_on(options.methods, seed, options.seeds):
        method = METHODS[name]
        for n in sorted(n for n in options.counts if n > 1):
            say(f"seed {seed}: {name}: {n} merged")
            measure_merged(bench, name, n, method, adapters[method.recipe][:n])
    return bench, adapters


def gather(options: Options) -> Results:
    """The results under --out. Raises: UserError for one that is not there."""
    results = Results()
    for seed in options.seeds:
        folder, methods = options.out / f"seed-{seed}" / "results", measured_on(options.methods, seed, options.seeds)
        named = {"seed": seed}
        results.base.append(_read(folder, "base") | _read(folder, "drawn-pairs") | named)
        for recipe in dict.fromkeys(METHODS[name].recipe for name in methods):
            results.alone[recipe].append(_read(folder, f"{recipe}-alone") | named)
        for name in methods:
            for n in sorted(n for n in options.counts if n > 1):
                results.merged[name, n].append(_read(folder, f"{name}-{n}") | named)
    return results


def _read(folder: Path, name: str) -> dict:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise UserError(
            f"{path} is not there: measure it first (without --table), or name other --methods, --counts, --seeds"
        )
    return json.loads(path.read_text())


def measure_merged(bench: Bench, name: str, n: int, method: Method, group: list[Adapter]) -> dict:
    """The first n merged, with the best of the settings that the method may choose from."""
    settings = {}
    if method.grid:
        settings = bench.cached(f"{name}-{n}-search", lambda: bench.search(method, group))["settings"]
    return bench.cached(f"{name}-{n}", lambda: bench.merged(method, group, settings))


def draw(options: Options, world: World, bench: Bench, adapters: dict[str, list[Adapter]]) -> None:
    """Crosstalk and pictures, of the last seed."""
    count = max(options.counts)
    shown = [name for name in SHOWN if name in options.methods] or list(options.methods[:1])
    write_json(options.out / "crosstalk.json", figures.draw_crosstalk(bench.artist.sd, adapters, options.out))
    if world.basis:
        _draw_speech(options, world.basis, bench.artist.sd, adapters)
    drawn = {f"{count} merged: {METHODS[n].label}": bench.pictures(f"{n}-{count}") for n in shown}
    first = METHODS[shown[0]].recipe
    alone = bench.pictures(f"{first}-alone")
    figures.draw_grid(bench.concepts[:8], alone, drawn, options.out / "grid.png", world.reference)
    figures.draw_all(bench.concepts, next(iter(drawn.values())), options.out / "all.png", world.reference)
    pairs = [p.text for p in world.tasks.pair_prompts(bench.concepts, bench.pairs)][:8]
    stylised = [p.text for p in world.tasks.stylised_prompts(bench.concepts, bench.pairs)][:8]
    by_prompt = next(iter(drawn.values()))
    if pairs:
        figures.draw_together({label: own["pairs"] for label, own in drawn.items()}, pairs, options.out / "pairs.png")
        real = bench.pictures("drawn-pairs")
        columns = ({"drawings": real["pairs"]} if real else {}) | {"by the prompt alone": by_prompt["pairs"]}
        # Results of older versions have none that are refined.
        refined = apart(drawn, shown, "refined", "refined") if "refined" in by_prompt else {}
        figures.draw_together(columns | apart(drawn, shown, "apart") | refined, pairs, options.out / "apart.png")
    if stylised:
        columns = {"by the prompt alone": by_prompt["stylised"]} | apart(drawn, shown, "stylised_apart")
        figures.draw_together(columns, stylised, options.out / "stylised.png")


def _draw_speech(options: Options, path: Path, sd: StableDiffusion, adapters: Mapping[str, list[Adapter]]) -> None:
    """Where the tokens of every recipe that shares a basis speak; of the last recipe without one too."""
    basis, blocks = load_text_basis(path, params_digest(sd.params)), RECIPES["token"]["blocks"]
    in_basis = [name for name in adapters if RECIPES[name]["basis"]]
    chosen = in_basis + [name for name in adapters if name not in in_basis][-1:]
    tables = {name: token_speech(sd, adapters[name], basis, blocks) for name in chosen}
    draw_speech(tables, [adapter.info.trigger for adapter in adapters[chosen[0]]], options.out / "speech.png")


def apart(
    drawn: Mapping[str, Mapping[str, np.ndarray]], methods: Sequence[str], task: str, called: str = "side by side"
) -> dict[str, np.ndarray]:
    """A task's pictures with the concepts side by side. drawn: every method's pictures, in the methods' order."""
    return {f"{called}, {METHODS[n].label}": own[task] for n, own in zip(methods, drawn.values(), strict=True)}


def say(words: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def write_report(options: Options, world: World, results: Results, kinds: Mapping[str, str]) -> list[dict]:
    """report.json and table.md, of all concepts and of each group of the world; gives the rows of the first group.

    kinds: of the concepts, by name.
    """
    count, lines = max(options.counts), []
    groups = {
        label: {name for name, kind in kinds.items() if kind in members} for label, members in world.groups.items()
    }
    rows = {
        label: summarise(*by_name(results.alone, results.merged, results.base, names))
        for label, names in groups.items()
        if names
    }
    rows["all"] = summarise(results.alone, results.merged, results.base)
    for label, found in rows.items():
        total = len(groups.get(label, kinds)) * len(options.seeds)
        short, full = (markdown(found, count, world.ceiling, only) for only in (SHORT, ()))
        lines += [f"{label} ({total} concepts):", "", short, "", "All that was measured of them:", "", full, ""]
    report: dict[str, Any] = {"options": str(options), "rows": rows}
    if options.concepts:
        report["identity"] = options.encoders.told
        lines += [f"Identity: {options.encoders.told}."]
    write_json(options.out / "report.json", report)
    write_atomic(options.out / "table.md", "\n".join(lines).rstrip().encode())
    return next(iter(rows.values()))


def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    options = read_options(Options, args, description=__doc__)
    if options.quick:
        # Nothing of an earlier check is used again.
        shutil.rmtree(options.out / "quick", ignore_errors=True)
        options = replace(
            options, out=options.out / "quick", methods=options.methods or QUICK, counts=(1, 3), steps=4, batch=2,
            at_once=3, seeds=options.seeds[:1],
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
    if options.shard:
        for seed in options.seeds:
            teach_all(options, world, sd, seed)
        print(f"share {options.shard} is taught: when all are, measure without --shard")
        return
    kinds = {c.name: c.kind for c in world.concepts(max(options.counts), options.seeds[-1])}
    measured = [measure(options, world, sd, seed) for seed in options.seeds if not options.table]
    rows = write_report(options, world, gather(options), kinds)
    figures.draw_curves(rows, options.out / "curves.png")
    if measured:
        draw(options, world, *measured[-1])
    print(f"{(options.out / 'table.md').read_text()}\n\nfigures and report.json are in {options.out}")


if __name__ == "__main__":
    run(main)
