"""SSR-Merge's router: sends what the adapters read to the adapter whose concept is called, by least squares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.finite import check_finite
from blocklora_jax.composing.check import check_merge
from blocklora_jax.layouts.low_rank import LoRAPair
from merge.compose import Params, compose
from merge.methods.joint_equations import Grams, check_grams, layers_of, pair_of
from merge.methods.measured import merge_measured
from merge.methods.method import Merged, NoSettings

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.input_statistics import InputGroup


@dataclass(frozen=True, kw_only=True)
class RoutingSettings(NoSettings):
    """Settings of SSR-Merge's router."""

    ridge: float = 1e-4
    """Weight of the penalty that makes the router's equations solvable, as a share of the signals' mean square."""


def route(
    params: Params,
    adapters: Sequence[Adapter],
    grams: Grams,
    weights: Sequence[Any] | None = None,
    *,
    ridge: float = 1e-4,
    check_base: bool = True,
) -> Params:
    """`params` with the adapters merged by a router in every layer, and their tokens appended.

    Side by side, all adapters read the signals z = x [A_1 … A_k]. A router R sends them on to [B_1; …; B_k], so that on
    the inputs of concept k only its own signals z_k arrive, at their place:

        R = argmin  sum_k |Z_k R - [0 … X_k A_k … 0]|^2  =  (sum_k Z_k^T Z_k)^-1 [… Z_k^T X_k A_k …]

    Args:
        params, adapters, weights: as for `compose`; the adapters may own the same weights.
        grams: as for `fit_to_inputs`: for each adapted layer a list of X_k^T X_k [n, n]. All concepts count alike if
            these have the same trace.
        ridge: added to the diagonal of the matrix that is inverted, as a share of its mean.

    Raises: UserError like `compose`, or naming the layers without matrices of the right number and shape.

    Source: SSR-Merge (arXiv 2606.10617): R = Q G^-1 with columns in the place of rows. There the ridge is 1e-4 for
    signals as they are.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> shapes = {f"{part}/{layer}": n for part, own in adapters[0].shapes().items() for layer, (n, _) in own.items()}
    >>> merged = route(params, adapters, {layer: [np.eye(n)] * 2 for layer, n in shapes.items()})
    >>> "mid_block" in merged["unet"]
    True
    """
    check_merge(params, adapters, weights, allow_overlap=True, check_base=check_base)
    return compose(params, routed(adapters, grams, ridge=ridge), weights, allow_overlap=True, check_base=False)


def routed(adapters: Sequence[Adapter], grams: Grams, *, ridge: float = 1e-4) -> list[Adapter]:
    """The adapters whose sum is the routed merge. Each has its up projection, and reads what the router sends it."""
    check_finite(adapters)
    check_grams(adapters, grams)
    routers = {layer: Router(adapters, [layer]) for layer in layers_of(adapters)}
    for layer, router in routers.items():
        for index, gram in enumerate(grams[layer]):
            router.add(index, gram)
    return _with_pairs(adapters, {layer: router.solve(ridge) for layer, router in routers.items()})


def routed_by_groups(
    adapters: Sequence[Adapter], groups: Iterable[InputGroup], *, ridge: float = 1e-4
) -> list[Adapter]:
    """Like `routed`, with inputs that are measured for some layers at a time."""
    check_finite(adapters)
    solved: dict[str, dict[tuple[int, str], LoRAPair]] = {}
    for group in groups:
        routers = {layer: Router(adapters, readers) for layer, readers in group.readers.items()}
        for index in range(len(adapters)):
            own = group.own(index)
            for layer, router in routers.items():
                router.add(index, own.pop(layer))
        solved |= {layer: router.solve(ridge) for layer, router in routers.items()}
    return _with_pairs(adapters, solved)


class Router:
    """The equations of layers that read the same inputs. Holds a matrix of the sum of all ranks for each layer."""

    def __init__(self, adapters: Sequence[Adapter], layers: Sequence[str]) -> None:
        self._pairs: dict[str, dict[int, LoRAPair]] = {}
        self._downs: dict[str, np.ndarray] = {}
        self._scales = [adapter.info.scale for adapter in adapters]
        self._signals: dict[str, np.ndarray] = {}
        self._wanted: dict[str, np.ndarray] = {}
        for layer in layers:
            pairs = {i: pair for i, adapter in enumerate(adapters) if (pair := pair_of(adapter, layer)) is not None}
            scaled = [np.asarray(pair.lora_A, np.float64) * self._scales[i] for i, pair in pairs.items()]
            self._pairs[layer], self._downs[layer] = pairs, np.concatenate(scaled, axis=1)
            total = self._downs[layer].shape[1]
            self._signals[layer], self._wanted[layer] = np.zeros((total, total)), np.zeros((total, total))

    def add(self, index: int, gram: Float[np.ndarray, "n n"]) -> None:
        """Add the inputs X^T X of concept number `index`. They count only where it has the layer."""
        exact = np.asarray(gram, np.float64)
        for layer, down in self._downs.items():
            if (place := self._place(layer, index)) is not None:
                product = down.T @ exact @ down
                self._signals[layer] += product
                self._wanted[layer][:, place] = product[:, place]

    def solve(self, ridge: float) -> dict[tuple[int, str], LoRAPair]:
        """The routed pairs, by number of the adapter and layer. A layer of one adapter alone is kept."""
        results = {}
        for layer, pairs in self._pairs.items():
            if len(pairs) == 1:
                results |= {(index, layer): pair for index, pair in pairs.items()}
                continue
            signals = self._signals[layer]
            damped = signals + max(ridge * np.trace(signals) / len(signals), 1e-30) * np.eye(len(signals))
            reads = self._downs[layer] @ np.linalg.solve(damped, self._wanted[layer])
            for index, pair in pairs.items():
                down = reads[:, self._place(layer, index)] / (self._scales[index] or 1.0)
                results[index, layer] = LoRAPair(down.astype(np.float32), np.asarray(pair.lora_B))
        return results

    def _place(self, layer: str, index: int) -> slice | None:
        start = 0
        for i, pair in self._pairs[layer].items():
            end = start + pair.lora_A.shape[1]
            if i == index:
                return slice(start, end)
            start = end
        return None


def _with_pairs(adapters: Sequence[Adapter], solved: Mapping[str, Mapping[tuple[int, str], LoRAPair]]) -> list[Adapter]:
    trees: list[dict[str, dict[str, LoRAPair]]] = [{c: {} for c in adapter.lora} for adapter in adapters]
    for pairs in solved.values():
        for (index, layer), pair in pairs.items():
            component, _, path = layer.partition("/")
            trees[index][component][path] = pair
    infos = [replace(adapter.info, partition=None, slots=()) for adapter in adapters]
    results = [replace(a, lora=tree, info=info) for a, tree, info in zip(adapters, trees, infos, strict=True)]
    check_finite(results)
    return results


def merge_by_routing(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: RoutingSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """The router with the common signature. The inputs are measured on prompts of each concept."""
    return merge_measured(sd, adapters, weights, partial(routed_by_groups, adapters, ridge=settings.ridge), check_base)
