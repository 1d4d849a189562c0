"""How far a merge moves the adapted layers from each concept's own output: `python -m benchmarks.modular.layer_error`.

The bench trains the concepts first (`python -m benchmarks.modular --counts 60 --seeds 4 --methods token token_fit`).
This program merges the first n of them, as a sum and after the joint fit, and draws nothing. The error of a concept is
|X (D - dW)| / |X dW|: D is the merged change of the layers that read text, dW the concept's own, and the rows of X are
the layers' inputs on prompts that call the concept. It is measured on the prompts that the joint fit uses, and on those
of the bench, whose words the fit does not know. Writes layer_error.json and layer_error.md into --out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.modular.core.report import write_rows
from benchmarks.modular.pocket.concepts import draw_concepts
from benchmarks.modular.pocket.prompts import concept_prompts
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import trigger_prompts
from blocklora_jax.probing.probe import Probe, own_tokens, with_tokens
from merge.methods.joint_equations import layers_of
from merge.methods.joint_fit import fit_jointly

_COLUMNS = ("concepts", "sum", "sum, the fit's prompts", "joint fit", "joint fit, its prompts")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which concepts, and how many of them."""

    run: Path = Path("runs/sixty")
    """The --out of a run of the bench."""
    seed: int = 4
    """One of the run's seeds."""
    recipe: str = "token"
    """How the concepts were trained: one of the folders of that seed."""
    counts: tuple[int, ...] = (15, 30, 60)
    prompts: int = 6
    """Prompts of the bench for each concept."""
    erase_weight: float = 1.0
    """The joint fit's lambda: the weight of ordinary prompts."""
    out: Path = Path("runs/layer_error")

    def __post_init__(self) -> None:
        check_options(self)


def read_adapters(options: Options) -> list[Adapter]:
    """The adapters in the order of the bench. Raises: UserError naming a concept that is missing."""
    folder = options.run / f"seed-{options.seed}" / options.recipe
    found = {path.parent.name: path for path in folder.glob("*/*/adapter.safetensors")}
    names = [concept.name for concept in draw_concepts(max(options.counts), options.seed)]
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{folder} has no {missing[0]}/adapter.safetensors: train it with benchmarks.modular")
    return [Adapter.load(found[name]) for name in names]


def check_text_only(layers: Sequence[str]) -> None:
    """Raises: UserError for a layer that reads pictures: those have no inputs in common."""
    if wrong := [layer for layer in layers if not (layer.startswith("unet/") and reads_text(layer))]:
        raise UserError(
            f"{wrong[0]} does not read text: give --run with adapters that change cross-attention K and V only"
        )


def text_inputs(sd: StableDiffusion, adapters: Sequence[Adapter], prompts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """For each adapter, what the layers that read text are given for its prompts: a row for each text position.

    prompts: as many for each adapter.
    """
    layer, found = layers_of(adapters)[0], []
    probe = Probe(sd, frozenset([layer]), lambda _layer, x, _y, _context: x, chunk=len(prompts[0]))
    for adapter, texts in zip(adapters, prompts, strict=True):
        ids = sd.tokenizer.encode(texts, token_counts([adapter]))
        found.append(probe(with_tokens(sd.params, own_tokens(sd, adapter)), None, ids)[layer])
    return found


def change(adapter: Adapter, layers: Sequence[str]) -> Float[np.ndarray, "d m"]:
    """The changes of `layers` side by side. All of them have the same input."""
    places = [layer.partition("/") for layer in layers]
    pairs = [adapter.lora[component][path] for component, _, path in places]
    return np.concatenate([adapter.info.scale * (pair.lora_A @ pair.lora_B) for pair in pairs], axis=1)


def errors(
    inputs: Mapping[str, Sequence[np.ndarray]], own: Sequence[np.ndarray], merged: np.ndarray
) -> dict[str, float]:
    """The error by kind of prompts: the mean over concepts."""
    found = {}
    for kind, rows in inputs.items():
        pairs = zip(rows, own, strict=False)  # fewer concepts may be merged than there are inputs
        found[kind] = float(np.mean([np.linalg.norm(x @ (merged - dw)) / np.linalg.norm(x @ dw) for x, dw in pairs]))
    return found


def measure(options: Options, sd: StableDiffusion) -> Iterator[dict[str, Any]]:
    """For each count, the errors of the sum and of the joint fit."""
    adapters, concepts = read_adapters(options), draw_concepts(max(options.counts), options.seed)
    layers, words = layers_of(adapters), words_for(sd.checkpoint.name)
    check_text_only(layers)
    fit_prompts = [trigger_prompts(adapter, words, ConversionConfig()) for adapter in adapters]
    bench_prompts = [[prompt.text for prompt in concept_prompts(c, options.prompts)] for c in concepts]
    inputs = {"bench": text_inputs(sd, adapters, bench_prompts), "fit": text_inputs(sd, adapters, fit_prompts)}
    own = [change(adapter, layers) for adapter in adapters]
    for count in options.counts:
        fitted = fit_jointly(sd, adapters[:count], erase_weight=options.erase_weight)
        merged = {"sum": _total(own[:count]), "joint fit": _total([change(adapter, layers) for adapter in fitted])}
        found = {name: errors(inputs, own[:count], total) for name, total in merged.items()}
        yield {"concepts": count, "erase_weight": options.erase_weight} | found


def _total(changes: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(np.add, changes)


def cells_of(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    return [
        str(found["concepts"]),
        *(f"{found[name][kind]:.3f}" for name in ("sum", "joint fit") for kind in ("bench", "fit")),
    ]


def main() -> None:
    """The command line."""
    options, sd = read_options(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    write_rows(measure(options, sd), cells_of, _COLUMNS, options.out / "layer_error")


if __name__ == "__main__":
    run(main)
