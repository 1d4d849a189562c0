"""The least squares problem of the joint fit and of gradient fusion: statistics of inputs -> changed adapters."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.finite import check_finite
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair
from merge.methods.finished_groups import FinishedGroups, Fitted

if TYPE_CHECKING:
    from blocklora_jax.probing.input_statistics import InputGroup

Grams = Mapping[str, Sequence[Float[np.ndarray, "_ _"]]]
# A concept whose output is almost lost is not made stronger than this.
MOST_STRENGTH = 2.0
# Gives equal pairs.
Keep = Callable[[Fitted], Fitted]


def fit_groups(
    adapters: Sequence[Adapter],
    groups: Iterable[InputGroup],
    *,
    erase_weight: float | None = 1.0,
    ridge: float = 1e-6,
    keep_strength: bool = False,
    keep: Keep = lambda pairs: pairs,
    finished: FinishedGroups | None = None,
) -> list[Adapter]:
    """Like `fit_to_inputs`, with inputs that are measured for some layers at a time.

    erase_weight: None: ordinary prompts are not measured. keep: see `fit_jointly`. finished: has the layers that are
    fitted already, and gets the others.
    """
    check_number("erase_weight", 0.0 if erase_weight is None else erase_weight, shown="lambda")
    check_finite(adapters)
    fitted: Fitted = {}
    for group in groups:
        layers = [layer for readers in group.readers.values() for layer in readers]
        if finished is not None and (known := finished.read(layers)) is not None:
            fitted |= keep(known)
            group.skip()
            continue
        solved: Fitted = {}
        sums = {layer: _Equations(adapters, readers) for layer, readers in group.readers.items()}
        for index in range(len(adapters)):
            own = group.own(index)
            for layer, equations in sums.items():
                equations.add(index, own.pop(layer))
        ordinary = {} if erase_weight is None else group.ordinary()
        for layer in list(sums):
            equations, unchanging = sums.pop(layer), ordinary.pop(layer, None)
            solved |= keep(equations.solve(unchanging, erase_weight or 0.0, ridge, keep_strength))
        if finished is not None:
            finished.write(layers, solved)
        fitted |= solved
    return _adapters_of(adapters, fitted)


def fit_to_inputs(
    adapters: Sequence[Adapter],
    grams: Grams,
    ordinary: Mapping[str, Float[np.ndarray, "_ _"]] | None = None,
    *,
    erase_weight: float = 1.0,
    ridge: float = 1e-6,
    keep_strength: bool = False,
) -> list[Adapter]:
    """The adapters with new down projections, so that their sum D is the best change for all concepts together:

        D = argmin  sum_k |X_k (D - dW_k)|^2 + lambda |X_0 D|^2 + r |D|^2

    Adapter k's part of D is (sum_j X_j^T X_j + lambda X_0^T X_0 + r I)^-1 X_k^T X_k dW_k. It has the rank and the up
    projection of the adapter, and little output where it would disturb others. The results own whole layers, not
    blocks.

    Args:
        adapters: the adapters to change.
        grams: for each adapted layer ("unet/…/to_k"), a list of one matrix X_k^T X_k [n, n] for each adapter, in their
            order. The rows of X_k are the layer's inputs while concept k is drawn.
        ordinary: X_0^T X_0 by layer, for inputs on which the model should not change.
        erase_weight: lambda.
        ridge: r as a share of the inputs' mean square.
        keep_strength: find the best D among those that have every concept's whole output in every layer, <X_k D, X_k
            dW_k> = |X_k dW_k|^2. Least squares makes it smaller, the more concepts disturb each other. The parts above
            are multiplied by one number each. It is kept between 1/2 and 2, so a concept that is almost lost does not
            get its whole output.

    Raises: UserError naming the layers without matrices of the right number and shape.

    Source: least squares over all concepts' inputs as in Mix-of-Show (arXiv 2305.18292) and RegMean (arXiv 2212.09849),
    with output erasure as one more set of inputs.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> shapes = {f"{part}/{layer}": n for part, own in adapters[0].shapes().items() for layer, (n, _) in own.items()}
    >>> grams = {layer: [np.eye(n)] * 2 for layer, n in shapes.items()}
    >>> [fitted.info.partition for fitted in fit_to_inputs(adapters, grams)]  # no blocks any more
    [None, None]
    """
    check_number("erase_weight", erase_weight, shown="lambda")
    check_finite(adapters)
    check_grams(adapters, grams)
    # Layers with the same inputs have the same matrices, and are solved together.
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for layer in layers_of(adapters):
        groups[tuple(map(id, grams[layer]))].append(layer)
    fitted: Fitted = {}
    for layers in groups.values():
        equations = _Equations(adapters, layers)
        for index, gram in enumerate(grams[layers[0]]):
            equations.add(index, gram)
        unchanging = None if ordinary is None else ordinary[layers[0]]
        fitted |= equations.solve(unchanging, erase_weight, ridge, keep_strength)
    return _adapters_of(adapters, fitted)


class _Equations:
    """The least squares problem of layers with the same inputs. Holds one matrix, however many adapters there are."""

    def __init__(self, adapters: Sequence[Adapter], layers: Sequence[str]):
        self._adapters, self._layers = adapters, layers
        self._total: np.ndarray | None = None
        self._sides: dict[tuple[int, str], np.ndarray] = {}

    def add(self, index: int, gram: Float[np.ndarray, "n n"]) -> None:
        """Adds the inputs on the prompts of adapter number `index`."""
        exact = np.asarray(gram, np.float64)
        self._total = exact.copy() if self._total is None else np.add(self._total, exact, out=self._total)
        for layer in self._layers:
            if (pair := pair_of(self._adapters[index], layer)) is not None:
                self._sides[index, layer] = exact @ np.asarray(pair.lora_A, np.float64)

    def solve(
        self, ordinary: Float[np.ndarray, "n n"] | None, erase_weight: float, ridge: float, keep_strength: bool
    ) -> Fitted:
        """The fitted pairs. The matrix is used up."""
        total, self._total = self._total, None
        assert total is not None
        if ordinary is not None:
            total += erase_weight * np.asarray(ordinary, np.float64)
        # Never exactly zero, so that a layer without any inputs gets no change.
        total = total + max(ridge * np.trace(total) / len(total), 1e-30) * np.eye(len(total))
        solved = np.linalg.solve(total, np.concatenate([*self._sides.values()], axis=1))
        edges = np.cumsum([side.shape[1] for side in self._sides.values()])[:-1]
        downs = dict(zip(self._sides, np.split(solved, edges, axis=1), strict=True))
        if keep_strength:
            for layer in self._layers:
                own = {index: down for (index, path), down in downs.items() if path == layer}
                strengths = self._strengths(layer, own)
                downs |= {(index, layer): own[index] * strength for index, strength in strengths.items()}
        return {
            (index, layer): LoRAPair(down.astype(np.float32), np.asarray(self._pair(index, layer).lora_B))
            for (index, layer), down in downs.items()
        }

    def _strengths(self, layer: str, solved: Mapping[int, np.ndarray]) -> dict[int, float]:
        """By number of the adapter, what its part of D is multiplied by, so that every concept's output is whole.

        solved: the new down projections of the layer.
        """
        numbers, pairs = list(solved), [self._pair(index, layer) for index in solved]
        scales = np.array([self._adapters[index].info.scale for index in numbers])
        sides = np.concatenate([self._sides[index, layer] for index in numbers], axis=1)
        ups = np.concatenate([np.asarray(pair.lora_B, np.float64) for pair in pairs])
        starts = np.cumsum([0, *(len(pair.lora_B) for pair in pairs)])[:-1]
        outer = ups @ ups.T

        def sums(downs: Sequence[np.ndarray]) -> Float[np.ndarray, "k k"]:
            """What changes with these down projections (columns) put out along each concept's output (rows)."""
            products = (sides.T @ np.concatenate(downs, axis=1)) * outer
            return np.add.reduceat(np.add.reduceat(products, starts, axis=0), starts, axis=1) * scales

        found = sums(list(solved.values()))
        wanted = np.diag(sums([np.asarray(pair.lora_A, np.float64) for pair in pairs]))
        used = wanted > 1e-12 * wanted.max(initial=0.0)
        strengths = np.ones(len(numbers))
        if used.any():
            strengths[used] = np.linalg.lstsq(found[np.ix_(used, used)], wanted[used], rcond=1e-6)[0]
        return dict(zip(numbers, np.clip(strengths, 1 / MOST_STRENGTH, MOST_STRENGTH), strict=True))

    def _pair(self, index: int, layer: str) -> LoRAPair:
        pair = pair_of(self._adapters[index], layer)
        assert pair is not None
        return pair


def _adapters_of(adapters: Sequence[Adapter], fitted: Fitted) -> list[Adapter]:
    """The adapters with the fitted pairs. Raises UserError if any is not finite."""
    trees: list[dict[str, dict[str, LoRAPair]]] = [{c: {} for c in adapter.lora} for adapter in adapters]
    for (index, layer), pair in fitted.items():
        component, _, path = layer.partition("/")
        trees[index][component][path] = pair
    names = [adapter.name for adapter in adapters]
    results = [replace(a, lora=tree, info=_info(a, names)) for a, tree in zip(adapters, trees, strict=True)]
    check_finite(results)
    return results


def _info(adapter: Adapter, names: Sequence[str]):
    # The key "fused_with" is kept from version 0.1, so that old files are recognised and new ones are equal to them.
    training = {"fused_with": [name for name in names if name != adapter.name], "of": json.loads(adapter.info.training)}
    return replace(adapter.info, partition=None, slots=(), training=json.dumps(training))


def layers_of(adapters: Sequence[Adapter]) -> list[str]:
    """The names of all adapted layers ("unet/…/to_k"), sorted."""
    return sorted({f"{c}/{layer}" for adapter in adapters for c, group in adapter.lora.items() for layer in group})


def pair_of(adapter: Adapter, layer: str) -> LoRAPair | None:
    """The adapter's pair of a layer ("unet/…/to_k"); None if it does not change the layer."""
    component, _, path = layer.partition("/")
    return adapter.lora.get(component, {}).get(path)


def check_grams(adapters: Sequence[Adapter], grams: Grams) -> None:
    """Raises: UserError unless every layer has one matrix for each adapter, of the size of the layer's inputs."""
    wrong = []
    for layer in layers_of(adapters):
        sizes = {len(pair.lora_A) for adapter in adapters if (pair := pair_of(adapter, layer)) is not None}
        given = grams.get(layer, ())
        if len(given) != len(adapters) or any(sizes != {len(gram)} or gram.shape[0] != gram.shape[1] for gram in given):
            wrong.append(layer)
    refuse_layers(wrong)


def refuse_layers(wrong: Sequence[str]) -> None:
    """Raises: UserError naming the layers `wrong`, if there are any."""
    if wrong:
        raise UserError(
            "the joint fit and gradient fusion need, for every adapted layer [n, m], one matrix [n, n] of inputs for "
            f"each adapter; these layers do not have them: {wrong}"
        )
