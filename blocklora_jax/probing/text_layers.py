"""What the layers that read text make of text features, in a merged model and with a concept's own adapter.

For features x' in the merged model and x with the adapter alone, the difference of all layers' outputs is

    |x' S - x (W + F)|^2, summed over the layers, each in units of the base's output

W, S and F are a layer's weights, the merged weights and the adapter's own change. Only their products are needed, which
are as large as the text features, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.io.tree_paths import flatten_params

# Below this share of the base's output an adapter's own output is no unit to measure errors in.
LEAST_OUTPUT = 1e-2
# Directions in which the merged layers answer less than this share of the strongest are left out.
_FAINTEST = 1e-8


class Own(NamedTuple):
    """Products for one adapter, fp64.

    cross: (W + F) S^T. output: (W + F) (W + F)^T. change: F F^T. by_merged: F S^T. by_base: F W^T.
    """

    cross: Float[np.ndarray, "n n"]
    output: Float[np.ndarray, "n n"]
    change: Float[np.ndarray, "n n"]
    by_merged: Float[np.ndarray, "n n"]
    by_base: Float[np.ndarray, "n n"]

    def squared_error(self, gram: np.ndarray, cross: np.ndarray, before: np.ndarray, now: np.ndarray) -> float:
        """|x' S - x (W + F)|^2. gram: S S^T. cross, before, now: the features' products x^T x', x^T x and x'^T x'."""
        return float(np.sum(gram * now) - 2 * np.sum(self.cross * cross) + np.sum(self.output * before))


@dataclass(frozen=True, eq=False, repr=False)
class TextLayers:
    """The layers of a merged model that read text.

    weights, merged: W and S [n, m] by path in the U-Net, fp32. units: the base's output on ordinary features.
    """

    weights: Mapping[str, Float[np.ndarray, "n m"]]
    merged: Mapping[str, Float[np.ndarray, "n m"]]
    units: Mapping[str, float]

    @classmethod
    def of(cls, base: Mapping[str, Any], merged: Mapping[str, Any], moments: Float[np.ndarray, "n n"]) -> TextLayers:
        """base, merged: parameters of the two models. moments: the mean x^T x of the features to measure units by."""
        paths = sorted(select_kernels(base, "cross_kv")["unet"])
        weights, sums = (
            {path: np.asarray(kernels[f"{path}/kernel"], np.float32) for path in paths}
            for kernels in map(flatten_params, (base["unet"], merged["unet"]))
        )
        units = {
            path: float(np.sum(weight * (moments.astype(np.float32) @ weight))) for path, weight in weights.items()
        }
        return cls(weights, sums, {path: max(unit, 1e-30) for path, unit in units.items()})

    @cached_property
    def gram(self) -> Float[np.ndarray, "n n"]:
        """S S^T, fp64."""
        return self._products(self.merged, self.merged)

    @cached_property
    def root(self) -> Float[np.ndarray, "n q"]:
        """R with S S^T = R R^T, fp64. It has a column for each direction in which the merged layers answer."""
        vectors, sizes = self._directions
        return vectors * sizes

    def own(self, adapter: Adapter, weight: float) -> Own:
        """The products for an adapter that is merged with `weight`."""
        pairs, scale = adapter.lora.get("unet", {}), adapter.info.scale * weight
        by_merged, by_base, change = (np.zeros_like(self.gram) for _ in range(3))
        for path, unit in self.units.items():
            if path not in pairs:
                continue
            down = np.asarray(pairs[path].lora_A, np.float64) * (scale / unit)
            up = np.asarray(pairs[path].lora_B, np.float32)
            by_merged += down @ (self.merged[path] @ up.T).T.astype(np.float64)
            by_base += down @ (self.weights[path] @ up.T).T.astype(np.float64)
            change += down @ (up @ up.T).astype(np.float64) @ (down.T * unit)
        output = self._base_by_base + by_base + by_base.T + change
        return Own(self._base_by_merged + by_merged, output, change, by_merged, by_base)

    def wanted(self, own: Own, states: Float[np.ndarray, "p t n"]) -> Float[np.ndarray, "p t q"]:
        """y, fp32: the features x' R that are best for the features x of `states` are those nearest to y."""
        vectors, sizes = self._directions
        return (states @ (own.cross @ (vectors / sizes))).astype(np.float32)

    @cached_property
    def _directions(self) -> tuple[Float[np.ndarray, "n q"], Float[np.ndarray, " q"]]:
        squares, vectors = np.linalg.eigh(self.gram)
        kept = squares > _FAINTEST * squares.max(initial=0.0)
        return vectors[:, kept], np.sqrt(squares[kept])

    @cached_property
    def _base_by_merged(self) -> Float[np.ndarray, "n n"]:
        return self._products(self.weights, self.merged)

    @cached_property
    def _base_by_base(self) -> Float[np.ndarray, "n n"]:
        return self._products(self.weights, self.weights)

    def _products(self, left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> np.ndarray:
        """The sum of left right^T over the layers, in their units."""
        total = 0.0
        for path, unit in self.units.items():
            total = total + (left[path] @ right[path].T).astype(np.float64) / unit
        return np.asarray(total)


def changed_text_encoders(adapters: Sequence[Adapter]) -> list[str]:
    """The names of the adapters that change a text encoder."""
    return [
        adapter.name
        for adapter in adapters
        if any(part.startswith("text_encoder") and layers for part, layers in adapter.lora.items())
        or any(path.startswith("text_encoder") for path in adapter.vectors)
    ]
