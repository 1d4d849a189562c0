"""Removes a concept from a merged model, or replaces it, bit for bit.

Blocks of features are disjoint: what was in a block goes, whatever it was. Adapters in a basis change the same weights,
but every change lies on a grid, so that their sum is read off the merged weights (see `composing.grid`). There the
concept's own change must be known, and the weights must be in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace as with_fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens, token_counts
from blocklora_jax.composing.check import adapter_problems, raise_problems
from blocklora_jax.composing.compose import kernel_blocks
from blocklora_jax.composing.grid import Pair, exchange_on_grid
from blocklora_jax.composing.overflow import check_overflow
from blocklora_jax.composing.overlap import layers_on_grid
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.layouts.token_tables import TOKEN_TABLES
from merge.compose import Params, compose
from merge.removable import check_on_grid, check_removable

_COMPONENT_OF_TABLE = {path: component for component, path in TOKEN_TABLES.items()}
# A mask for a kernel, and the kernel whose values are used where the mask is true.
Patch = tuple[np.ndarray, Any]


def remove(
    params: Params,
    base_params: Params,
    adapters: Sequence[Adapter],
    name: str,
    *,
    weights: Sequence[float] | None = None,
) -> Params:
    """`params`, the merge of `adapters` into `base_params`, without the concept `name`.

    The result equals the merge of the others bit for bit. The concept's blocks get the base's values, its token rows
    are removed, and everything else is kept (unchanged leaves are the same arrays).
    Where others change the same weights in a basis, the concept's change is subtracted from their sum.

    adapters: those that `params` were composed of, in that order. Their values are not read, so the results of
        `merge.manifest.without_values` can be used; except the concept's own where others change the same weights.
    weights: those that `params` were composed with, 1 by default. They are read where values are.

    In a basis `params` must be fp32, and be where they were composed: NumPy and devices round products differently.

    Raises: UserError for an unknown name, for a concept that shares weights with another, and for params that do not
        fit.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> base = tiny_params()
    >>> adapters = [random_adapter("ada", base, slots=(0,)), random_adapter("bob", base, slots=(1,))]
    >>> merged = compose(base, adapters)
    >>> without = remove(merged, base, adapters, "bob")
    >>> alone = compose(base, adapters[:1])
    >>> all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(without), jax.tree.leaves(alone), strict=True))
    True
    """
    index = check_removable(adapters, name)
    return _exchange(params, base_params, adapters, index, _Change(adapters[index], _weight(weights, index), None, 1.0))


def replace(
    params: Params,
    base_params: Params,
    adapters: Sequence[Adapter],
    name: str,
    new: Adapter,
    weight: float = 1.0,
    *,
    weights: Sequence[float] | None = None,
    check_base: bool = True,
) -> Params:
    """Like `remove`, but with `new` in place of the concept. It equals the merge with `new` instead bit for bit.

    weight, check_base: of `new`, as in `compose`.
    weights: as in `remove`.

    Raises: UserError like `remove` and `compose`.

    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> base = tiny_params()
    >>> adapters = [random_adapter("ada", base, slots=(0,)), random_adapter("bob", base, slots=(1,))]
    >>> other = random_adapter("eve", base, slots=(1,))
    >>> merged = replace(compose(base, adapters), base, adapters, "bob", other)
    >>> expected = compose(base, [adapters[0], other])
    >>> all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(expected), strict=True))
    True
    """
    index = check_removable(adapters, name)
    after = [new if i == index else adapter for i, adapter in enumerate(adapters)]
    raise_problems(adapter_problems(after, None, allow_overlap=False))
    alone = compose(base_params, [new], [weight], check_base=check_base)
    change = _Change(adapters[index], _weight(weights, index), new, weight)
    return _exchange(params, base_params, adapters, index, change, _patches(alone, new))


def check_untouched(params: Params, base_params: Params, adapters: Sequence[Adapter], dtype: str) -> None:
    """Raises UserError if `params` differ from the base outside the adapters' blocks, so that the base is another one.

    dtype: the type in which `params` were saved. The base is rounded to it before the comparison.
    """
    base = _leaves(base_params)
    owned: dict[str, np.ndarray] = {}
    for adapter in adapters:
        for path, (mask, _) in _patches(None, adapter).items():
            owned[path] = owned[path] | mask if path in owned else mask
    wrong = []
    for path, leaf in _leaves(params).items():
        expected = np.asarray(base[path]).astype(jnp.dtype(dtype)).astype(np.asarray(leaf).dtype)
        stored = np.asarray(leaf)[: len(expected)] if path in _COMPONENT_OF_TABLE else np.asarray(leaf)
        same = stored == expected
        if not np.all(same | owned[path].reshape(same.shape) if path in owned else same):
            wrong.append(path)
    if wrong:
        raise UserError(
            f"{len(wrong)} tensors differ from the base outside the concepts' blocks ({wrong[0]}, …): the concepts "
            "were merged into another base (such as one of another precision), or the model was changed afterwards"
        )


class _Change(NamedTuple):
    """What is taken out of a merge, and what is put in its place (None: nothing)."""

    old: Adapter
    old_weight: float
    new: Adapter | None
    new_weight: float

    def pairs(self, others: Sequence[Adapter]) -> dict[str, list[Pair]]:
        """By path of kernels whose changes are summed on a grid with those of `others`: what is added to the sum."""
        new = [] if self.new is None else [(self.new, self.new_weight)]
        members = [(self.old, -self.old_weight), *new]
        grid, own = layers_on_grid(others), {layer for adapter, _ in members for layer in _layers(adapter)}
        blocks = kernel_blocks([_only(adapter, grid) for adapter, _ in members], [weight for _, weight in members])
        return {f"{layer}/kernel": [(b.a, b.b) for b in blocks[f"{layer}/kernel"]] for layer in grid & own}


def _exchange(
    params: Params,
    base_params: Params,
    adapters: Sequence[Adapter],
    index: int,
    change: _Change,
    patches: Mapping[str, Patch] | None = None,
) -> Params:
    base, leaves, new = _leaves(base_params), _leaves(params), [change.new] if change.new else []
    counts = [sum(token_counts([adapter]).values()) for adapter in adapters]
    _check_leaves(leaves, base, sum(counts))
    patched: tuple[Mapping[str, Patch], ...] = (_patches(base_params, adapters[index]), patches or {})
    summed = change.pairs([*adapters[:index], *adapters[index + 1 :]])
    check_on_grid(leaves, base, summed, adapters[index].name)

    def exchanged(path, leaf):
        name = leaf_path(path)
        if name in summed:
            return exchange_on_grid(leaf, base[name], summed[name])
        for each in patched:
            leaf = _select(*each[name], leaf) if name in each else leaf
        if name not in _COMPONENT_OF_TABLE:
            return leaf
        vectors = [v for _, v in ordered_tokens(new, _COMPONENT_OF_TABLE[name])]
        first = len(base[name]) + sum(counts[:index])
        return _exchange_rows(leaf, first, counts[index], vectors) if counts[index] or vectors else leaf

    with np.errstate(over="ignore", invalid="ignore"):
        result = jax.tree_util.tree_map_with_path(exchanged, params)
    check_overflow(params, result, {*patched[1], *_COMPONENT_OF_TABLE.keys() & base.keys()}, every=False)
    return result


def _weight(weights: Sequence[float] | None, index: int) -> float:
    return 1.0 if weights is None else weights[index]


def _layers(adapter: Adapter) -> Iterator[str]:
    return (f"{component}/{layer}" for component, layers in adapter.lora.items() for layer in layers)


def _only(adapter: Adapter, layers: Collection[str]) -> Adapter:
    """The adapter's part in these layers."""
    lora = {
        component: {layer: pair for layer, pair in each.items() if f"{component}/{layer}" in layers}
        for component, each in adapter.lora.items()
    }
    return with_fields(adapter, lora=lora)


def _patches(source: Params | None, adapter: Adapter) -> dict[str, Patch]:
    """For every kernel and vector that the adapter changes: a mask of what it owns, and the array in `source`."""
    leaves, patches = _leaves(source) if source is not None else {}, {}
    for component, layers in adapter.shapes().items():
        for layer, shape in layers.items():
            mask = np.zeros(shape, bool)
            mask[np.ix_(*adapter.info.support(component, layer, shape))] = True
            path = f"{component}/{layer}/kernel"
            patches[path] = mask, leaves.get(path)
    for path, vector in adapter.vectors.items():
        patches[path] = np.ones(np.shape(vector), bool), leaves.get(path)
    return patches


def _select(mask: np.ndarray, source: Any, kernel: Any) -> Any:
    mask, source = mask.reshape(kernel.shape), source.astype(kernel.dtype)
    if isinstance(kernel, np.ndarray):
        return np.where(mask, np.asarray(source), kernel)
    selected = jnp.where(mask, source, kernel)
    return selected if isinstance(kernel, Tracer) else jax.device_put(selected, kernel.sharding)


def _exchange_rows(table: Any, first: int, count: int, vectors: Sequence[Any]) -> Any:
    xp = np if isinstance(table, np.ndarray) else jnp
    rows = [xp.asarray(v, table.dtype) for v in vectors]
    return xp.concatenate([table[:first], *rows, table[first + count :]])


def _leaves(params: Params) -> dict[str, Any]:
    return {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def _check_leaves(leaves: Mapping[str, Any], base: Mapping[str, Any], rows: int) -> None:
    wrong = sorted(leaves.keys() ^ base.keys())
    for path in leaves.keys() & base.keys():
        shape = tuple(np.shape(base[path]))
        expected = (shape[0] + rows, *shape[1:]) if path in _COMPONENT_OF_TABLE else shape
        wrong += [path] if np.shape(leaves[path]) != expected else []
    if wrong:
        raise UserError(
            f"these params are not a merge of these adapters into this base: {len(wrong)} tensors do not fit "
            f"({wrong[0]}, …)"
        )
