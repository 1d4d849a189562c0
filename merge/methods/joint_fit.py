"""The joint fit: adapters that share weights are changed so that their sum serves every concept."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import jax
import numpy as np
import tyro
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.finite import check_finite
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.composing.check import check_merge
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair
from merge.compose import compose
from merge.methods.method import Merged, NoSettings

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.input_statistics import Inputs
    from blocklora_jax.prompts.random_prompts import PromptWords

Grams = Mapping[str, Sequence[Float[np.ndarray, "_ _"]]]


@dataclass(frozen=True, kw_only=True)
class JointFitSettings(NoSettings):
    """Settings of the joint fit."""

    erase_weight: Annotated[float, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the error on ordinary prompts, compared with that of one concept's own prompts."""
    attention: bool = False
    """Weigh text by the attention that the U-Net pays to it: a little closer, but slower, as the U-Net has to run."""


def fit_jointly(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    *,
    erase_weight: float = 1.0,
    words: PromptWords | None = None,
    attention: bool = False,
    check_base: bool = True,
) -> list[Adapter]:
    """The adapters, changed so that they disturb each other least: see `fit_to_inputs`. No pictures, no training.

    Merge them by `compose(params, …, allow_overlap=True)`, all of them together: each relies on the others.

    Args:
        sd: the base.
        erase_weight: how much ordinary prompts count, compared with one concept's own prompts.
        words: what prompts are made of; a list that fits the model if not given.
        attention: count text by the attention that the U-Net pays to it. A little closer, and slower: the U-Net is run.
        check_base: refuse a base that the adapters were not trained on.

    Raises: UserError as `compose` does, and for convolutions wider than 1x1.
    """
    check_merge(sd.params, adapters, None, allow_overlap=True, check_base=check_base)
    inputs = measure(sd, adapters, words, attention=attention)
    return fit_to_inputs(adapters, inputs.grams, inputs.ordinary, erase_weight=erase_weight)


def measure(
    sd: StableDiffusion, adapters: Sequence[Adapter], words: PromptWords | None = None, *, attention: bool = False
) -> Inputs:
    """What layers read on each concept's prompts and on ordinary ones (see `measure_inputs`)."""
    # Imported late: it brings Flax, which merging as such does not need.
    from blocklora_jax.probing.input_statistics import measure_inputs

    # NumPy parameters would be copied to the device at every call.
    return measure_inputs(replace(sd, params=jax.device_put(sd.params)), adapters, words, attention=attention)


def fit_to_inputs(
    adapters: Sequence[Adapter],
    grams: Grams,
    ordinary: Mapping[str, Float[np.ndarray, "_ _"]] | None = None,
    *,
    erase_weight: float = 1.0,
    ridge: float = 1e-6,
) -> list[Adapter]:
    """The adapters with new down projections, such that their sum D is the best change for all concepts at once:

        D = argmin  sum_k |X_k (D - dW_k)|^2 + lambda |X_0 D|^2 + r |D|^2

    Adapter k's part of D is (sum_j X_j^T X_j + lambda X_0^T X_0 + r I)^-1 X_k^T X_k dW_k. It has the adapter's rank and
    its up projection, and does nothing where it would disturb another. The results own whole layers, not blocks.

    Args:
        grams: for each adapted layer ("unet/…/to_k") one matrix X_k^T X_k [n, n] for each adapter, in their order. The
            rows of X_k are inputs that the layer gets while concept k is drawn.
        ordinary: X_0^T X_0 by layer, of inputs on which the model is to stay as it is.
        erase_weight: lambda.
        ridge: r as a share of the inputs' mean square.

    Raises: UserError naming the layers without matrices of the right number and shape.

    Source: least squares over all concepts' inputs as in Mix-of-Show (arXiv 2305.18292) and RegMean (arXiv 2212.09849),
    with output erasure as one more set of inputs.
    """
    check_number("erase_weight", erase_weight, shown="lambda")
    check_finite(adapters)
    _check(adapters, grams)
    lora: list[dict[str, dict[str, LoRAPair]]] = [{c: {} for c in adapter.lora} for adapter in adapters]
    # Layers that read the same inputs have the same matrices: they are solved together.
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for layer in _layers(adapters):
        groups[tuple(map(id, grams[layer]))].append(layer)
    for layers in groups.values():
        exact = [np.asarray(gram, np.float64) for gram in grams[layers[0]]]
        total = np.sum(exact, axis=0)
        if ordinary is not None:
            total = total + erase_weight * np.asarray(ordinary[layers[0]], np.float64)
        # Never exactly zero: a layer that got no inputs at all is to stay as it is.
        total = total + max(ridge * np.trace(total) / len(total), 1e-30) * np.eye(len(total))
        found = [(k, layer, _pair(adapter, layer)) for k, adapter in enumerate(adapters) for layer in layers]
        parts = [(k, layer, pair) for k, layer, pair in found if pair is not None]
        sides = [exact[k] @ np.asarray(pair.lora_A, np.float64) for k, _, pair in parts]
        solved = np.linalg.solve(total, np.concatenate(sides, axis=1)).astype(np.float32)
        edges = np.cumsum([side.shape[1] for side in sides])[:-1]
        for (k, layer, pair), down in zip(parts, np.split(solved, edges, axis=1), strict=True):
            component, _, path = layer.partition("/")
            lora[k][component][path] = LoRAPair(down, np.asarray(pair.lora_B))
    names = [adapter.name for adapter in adapters]
    fitted = [
        replace(adapter, lora=tree, info=_info(adapter, names)) for adapter, tree in zip(adapters, lora, strict=True)
    ]
    check_finite(fitted)
    return fitted


def _info(adapter: Adapter, names: Sequence[str]):
    # "fused_with" is the name in files of version 0.1: kept, so that they are recognised and equal.
    training = {"fused_with": [name for name in names if name != adapter.name], "of": json.loads(adapter.info.training)}
    return replace(adapter.info, partition=None, slots=(), training=json.dumps(training))


def _layers(adapters: Sequence[Adapter]) -> list[str]:
    return sorted({f"{c}/{layer}" for adapter in adapters for c, group in adapter.lora.items() for layer in group})


def _pair(adapter: Adapter, layer: str) -> LoRAPair | None:
    component, _, path = layer.partition("/")
    return adapter.lora.get(component, {}).get(path)


def _check(adapters: Sequence[Adapter], grams: Grams) -> None:
    """Raises: UserError unless every layer has one matrix for each adapter, of the size of what the layer reads."""
    wrong = []
    for layer in _layers(adapters):
        sizes = {len(pair.lora_A) for adapter in adapters if (pair := _pair(adapter, layer)) is not None}
        found = grams.get(layer, ())
        if len(found) != len(adapters) or any(sizes != {len(gram)} or gram.shape[0] != gram.shape[1] for gram in found):
            wrong.append(layer)
    if wrong:
        raise UserError(
            "joint fit and gradient fusion need one matrix [n, n] of inputs an adapter for every adapted layer [n, m]; "
            f"these layers have not: {wrong}"
        )


def merge_by_joint_fit(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: JointFitSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """The joint fit, then the sum of its results, with the signature of every method. They are the merged adapters."""
    check_merge(sd.params, adapters, weights, allow_overlap=True, check_base=check_base)
    fitted = fit_jointly(
        sd, adapters, erase_weight=settings.erase_weight, attention=settings.attention, check_base=False
    )
    return Merged(compose(sd.params, fitted, weights, allow_overlap=True, check_base=False), fitted)
