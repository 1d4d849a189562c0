"""Computes the pairs and vectors of one layer after the other from the parts in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from blocklora_jax.external_lora.algorithms.dora import MAGNITUDES, decomposed
from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer
from blocklora_jax.external_lora.algorithms.lora import LORA
from blocklora_jax.external_lora.base_weights import BaseWeights
from blocklora_jax.external_lora.changes import Change, Dense, Factors, add, exact_pair, weight_of
from blocklora_jax.external_lora.peft_config import PeftConfigs
from blocklora_jax.external_lora.problems import finite_problem, shape_problem
from blocklora_jax.external_lora.reduced import Loss, reduced_pair
from blocklora_jax.external_lora.scales import scale_of, scale_problem
from blocklora_jax.external_lora.starts import start_factors, start_of
from blocklora_jax.external_lora.vectors import bias_vectors, norm_vectors
from blocklora_jax.layouts.families.recognise import Shape
from blocklora_jax.layouts.low_rank import LoRAPair, LoRATree

# Numbers that all pairs of a file may have if the base does not bound them: 4 GB.
_MOST_NUMBERS = 1 << 30


class Unusable(Exception):
    """A layer that cannot be used; its text follows the layer's name."""


@dataclass
class Changes:
    """What a file changes, and what was left out of it.

    lora, vectors: as in `ExternalLoRA`. shapes: of the layers, for `possible_families`. losses: of layers that are not
    ordinary pairs. reduced: how many of these were reduced.
    """

    lora: LoRATree = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[tuple[str, str], Shape] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    reduced: int = 0
    numbers: int = 0

    @property
    def relative_error(self) -> float:
        """|change left out|_F / |change|_F over the layers that are not ordinary pairs."""
        total = sum(loss.total for loss in self.losses)
        return (sum(loss.lost for loss in self.losses) / total) ** 0.5 if total else 0.0


class Reader(NamedTuple):
    """How layers are read.

    configs: PEFT's settings. base: the base's weights, if they are at hand. max_rank: of layers that are not ordinary
    pairs; None: exact. initial: the pairs before training, if they have to be taken off.
    """

    configs: PeftConfigs
    base: BaseWeights | None
    max_rank: int | None
    initial: LoRATree | None = None

    def add_norm(self, changes: Changes, component: str, path: str, parts: Mapping[str, np.ndarray]) -> None:
        """Adds the changes of a norm. Raises Unusable."""
        layer = self._layer(component, path, parts, None)
        if problem := finite_problem(layer):
            raise Unusable(problem)
        try:
            self._add_vectors(changes, norm_vectors(layer))
        except ValueError as error:
            raise Unusable(str(error)) from error

    def add_layer(
        self, changes: Changes, component: str, path: str, parts: Mapping[str, np.ndarray], kind: Algorithm | None
    ) -> None:
        """Adds the changes of a layer. kind: None if only its bias is changed. Raises Unusable."""
        settings = self.configs.of(component)
        start = start_of(settings.get("init_lora_weights")) if kind is LORA and self.initial is None else ""
        decompose = any(name in parts for name in MAGNITUDES)
        if self.initial is not None and (kind is not LORA or decompose):
            raise Unusable("is no ordinary pair, from which the pair before training could be taken off")
        needs_base = kind is not None and (kind.needs_base or decompose or bool(start))
        layer = self._layer(component, path, parts, self.base if needs_base or kind not in (LORA, None) else None)
        if needs_base and layer.weight is None:
            raise Unusable("is not a layer of the base model, which its change depends on")
        if problem := shape_problem(kind, layer):
            raise Unusable(problem)
        if problem := finite_problem(layer):
            raise Unusable(problem)
        scale = scale_of(kind, layer, self.configs) if kind else 1.0
        if problem := scale_problem(scale, kind, layer) if kind else None:
            raise Unusable(problem)
        if kind:
            changes.shapes[component, path] = _shape(kind, layer)
            with np.errstate(over="ignore", invalid="ignore"):
                self._add_pair(changes, layer, kind, scale, start, decompose)
        bias = self.base.vector(f"{component}/{path}/bias") if self.base else None
        try:
            self._add_vectors(changes, bias_vectors(layer, scale, bias))
        except ValueError as error:
            raise Unusable(str(error)) from error

    def _layer(self, component: str, path: str, parts: Mapping[str, np.ndarray], base: BaseWeights | None) -> Layer:
        with np.errstate(over="ignore"):
            small = {name: part.astype(np.float32) for name, part in parts.items()}
        weight = base.weight(component, path) if base else None
        return Layer(component=component, path=path, parts=small, weight=weight, settings=self.configs.of(component))

    def _add_pair(
        self, changes: Changes, layer: Layer, kind: Algorithm, scale: float, start: str, decompose: bool
    ) -> None:
        ordinary = kind is LORA and not decompose
        try:
            change, scale = _computed(kind, layer, scale, start, decompose)
            if ordinary or self.max_rank is None:
                pair = exact_pair(change, scale)
            else:
                pair, loss = reduced_pair(change, scale, self.max_rank)
                changes.losses.append(loss)
                changes.reduced += loss.lost > 0
        except np.linalg.LinAlgError as error:
            # NumPy's solver and SVD fail on infinity, and on numbers beside which 1 is lost.
            raise Unusable("has values that are too large") from error
        if self.initial is not None:
            pair = _without(pair, self.initial.get(layer.component, {}).get(layer.path))
        if not all(np.isfinite(side).all() for side in pair):
            raise Unusable("has values that are too large")
        changes.numbers += 0 if ordinary or self.base else sum(side.size for side in pair)
        if changes.numbers > _MOST_NUMBERS:
            raise Unusable("and those before it have more numbers at full size than any adapter has: give a max_rank")
        changes.lora.setdefault(layer.component, {})[layer.path] = pair

    def _add_vectors(self, changes: Changes, vectors: Mapping[str, np.ndarray]) -> None:
        for path, vector in vectors.items():
            stored = self.base.vector(path) if self.base else None
            if self.base and (stored is None or stored.shape != vector.shape):
                there = "not there" if stored is None else f"of shape {list(stored.shape)}"
                raise ValueError(f"changes {path} by a vector of shape {list(vector.shape)}; in the base it is {there}")
        changes.vectors.update(vectors)


def _computed(kind: Algorithm, layer: Layer, scale: float, start: str, decompose: bool) -> tuple[Change, float]:
    """The change and the number by which it is still to be multiplied."""
    change = kind.change(layer)
    if start:
        if layer.base.ndim != 2:
            raise Unusable(f"is a convolution, to which {start} does not apply")
        taken = start_factors(start, layer.base, kind.rank(layer) or 1, scale)
        change, scale = add(_scaled(change, scale), taken._replace(up=-taken.up)), 1.0
    return (decomposed(change, scale, layer), 1.0) if decompose else (change, scale)


def _without(pair: LoRAPair, initial: LoRAPair | None) -> LoRAPair:
    """The pair less the one before training."""
    if initial is None or (len(initial.lora_A), initial.lora_B.shape[1]) != (len(pair.lora_A), pair.lora_B.shape[1]):
        raise Unusable("is not in the adapter before training, or has another shape there")
    return LoRAPair(
        np.concatenate([pair.lora_A, -np.asarray(initial.lora_A)], axis=1),
        np.concatenate([pair.lora_B, np.asarray(initial.lora_B)]),
    )


def _scaled(change: Change, scale: float) -> Change:
    if isinstance(change, Factors):
        return change._replace(up=change.up * np.float32(scale))
    return Dense(weight_of(change) * np.float32(scale))


def _shape(kind: Algorithm, layer: Layer) -> Shape:
    """The layer's shape, as far as the parts or the base show it. Only ordinary pairs show the number of axes."""
    shape = kind.shape(layer) or (layer.weight.shape if layer.weight is not None else (0, 0))
    axes = layer.parts["down"].ndim if kind is LORA else 0
    return Shape(shape[1], shape[0], axes)
