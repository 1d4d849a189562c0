"""How far a merge moves the adapted layers from each concept's own output: `python -m benchmarks.modular.layer_error`.

The bench trains the concepts first (`python -m benchmarks.modular --counts 60 --seeds 4 --methods token token_fit`).
This program merges the first n of them, as a sum, with tuned tokens, and after the joint fit. It draws nothing. The
error of a concept is |Y (W + D) - X (W + dW)| / |X dW|: W are the weights of the layers that read text, D the merged
change, dW the concept's own, and the rows of X the layers' inputs on prompts that call the concept. Y are those with
the tuned token, otherwise X. It is measured on the prompts that the fit and the tuning use, and on those of the bench,
whose words they do not know (but see --all-words). Writes layer_error.json and layer_error.md into --out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

import merge
from benchmarks.modular.core.report import write_rows
from benchmarks.modular.pocket.concepts import draw_concepts
from benchmarks.modular.pocket.prompts import concept_prompts
from benchmarks.modular.pocket.words import training_words
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import trigger_prompts
from blocklora_jax.probing.probe import Probe, own_tokens, with_tokens
from merge.methods.joint_equations import layers_of

_METHODS = ("sum", "tuned tokens", "joint fit")
_COLUMNS = ("concepts", *(f"{name}{prompts}" for name in _METHODS for prompts in ("", ", its own prompts")))


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
    all_words: bool = False
    """Let the prompts of the fit and of the tuning have the words of the bench's prompts too."""
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


def side_by_side(kernels: Sequence[np.ndarray]) -> Float[np.ndarray, "d m"]:
    """The kernels of layers that have the same input as one."""
    return np.concatenate(kernels, axis=1)


def change(adapter: Adapter, layers: Sequence[str]) -> Float[np.ndarray, "d m"]:
    """The changes of `layers` side by side."""
    places = [layer.partition("/") for layer in layers]
    pairs = [adapter.lora[component][path] for component, _, path in places]
    return side_by_side([np.asarray(adapter.info.scale * (pair.lora_A @ pair.lora_B)) for pair in pairs])


def mean_error(
    before: Sequence[np.ndarray], now: Sequence[np.ndarray], base: np.ndarray, own: Sequence[np.ndarray],
    merged: np.ndarray,
) -> float:  # fmt: skip
    """The mean over the concepts in `own`. before, now: their inputs X and Y. base, merged: W and D."""
    rows = zip(before, now, own, strict=False)  # fewer concepts may be merged than there are inputs
    return float(
        np.mean([np.linalg.norm(y @ merged - x @ dw + (y - x) @ base) / np.linalg.norm(x @ dw) for x, y, dw in rows])
    )


def measure(options: Options, sd: StableDiffusion) -> Iterator[dict[str, Any]]:
    """For each count, the errors of the sum and of the joint fit."""
    adapters, concepts = read_adapters(options), draw_concepts(max(options.counts), options.seed)
    layers, weights = layers_of(adapters), flatten_params(sd.params)
    words = words_for(sd.checkpoint.name) if options.all_words else training_words()
    check_text_only(layers)
    prompts = {
        "bench": [[prompt.text for prompt in concept_prompts(c, options.prompts)] for c in concepts],
        "own": [trigger_prompts(adapter, words, ConversionConfig()) for adapter in adapters],
    }
    before = {kind: text_inputs(sd, adapters, texts) for kind, texts in prompts.items()}
    base = side_by_side([np.asarray(weights[f"{layer}/kernel"]) for layer in layers])
    own = [change(adapter, layers) for adapter in adapters]
    for count in options.counts:
        chosen = adapters[:count]
        fitted = merge.fit_jointly(sd, chosen, words=words, erase_weight=options.erase_weight)
        tuned = merge.tune_tokens(sd, chosen, words=words).adapters
        now = {kind: text_inputs(sd, tuned, texts[:count]) for kind, texts in prompts.items()}
        summed, fitted_sum = _total(own[:count]), _total([change(adapter, layers) for adapter in fitted])
        cases = {"sum": (before, summed), "tuned tokens": (now, summed), "joint fit": (before, fitted_sum)}
        yield {"concepts": count, "erase_weight": options.erase_weight} | {
            name: {kind: mean_error(before[kind], inputs[kind], base, own[:count], total) for kind in prompts}
            for name, (inputs, total) in cases.items()
        }


def _total(changes: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(np.add, changes)


def cells_of(found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    return [
        str(found["concepts"]),
        *(f"{found[name][kind]:.3f}" for name in _METHODS for kind in ("bench", "own")),
    ]


def main() -> None:
    """The command line."""
    options, sd = read_options(Options, description=__doc__), StableDiffusion.from_pretrained("pocket")
    write_rows(measure(options, sd), cells_of, _COLUMNS, options.out / "layer_error")


if __name__ == "__main__":
    run(main)
