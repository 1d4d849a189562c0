"""The base model's weights, for changes that depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.torch_names import flip_axes

# A whole model's parameters by component, or a function that gives them when they are needed.
BaseModel = Mapping[str, Any] | Callable[[], Mapping[str, Any]]


class BaseWeights:
    """The weights of a model with Flax names, in PyTorch's layout."""

    def __init__(self, model: BaseModel) -> None:
        self._leaves = flatten_params(model() if callable(model) else model)

    def weight(self, component: str, layer: str) -> Float[np.ndarray, "m n *window"] | None:
        """A layer's weight, fp32; None if the model does not have the layer."""
        path = f"{component}/{layer}/kernel"
        if path not in self._leaves:
            return None
        return np.asarray(flip_axes(path, np.asarray(self._leaves[path]), to_torch=True), np.float32)

    def vector(self, path: str) -> Float[np.ndarray, " c"] | None:
        """A norm's scale or a bias ("unet/…/norm1/scale"), fp32; None if the model does not have it."""
        return np.asarray(self._leaves[path], np.float32) if path in self._leaves else None
