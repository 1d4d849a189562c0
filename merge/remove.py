"""Removes a concept from a merged model, or replaces it. This is exact because blocks are disjoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens, token_counts
from blocklora_jax.composing.check import adapter_problems, raise_problems
from blocklora_jax.composing.overflow import check_overflow
from blocklora_jax.composing.overlap import shared_layers
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.layouts.token_tables import TOKEN_TABLES
from merge.compose import Params, compose

_COMPONENT_OF_TABLE = {path: component for component, path in TOKEN_TABLES.items()}
# A mask for a kernel, and the kernel whose values are used where the mask is true.
Patch = tuple[np.ndarray, Any]


def remove(params: Params, base_params: Params, adapters: Sequence[Adapter], name: str) -> Params:
    """`params`, the merge of `adapters` into `base_params`, without the concept `name`.

    The result equals the merge of the others bit for bit. The concept's blocks get the base's values, its token rows
    are removed, and everything else is kept (unchanged leaves are the same arrays).

    adapters: those that `params` were composed of, in that order. Their values are not read, so the results of
        `merge.manifest.without_values` can be used.

    Raises: UserError for an unknown name, for a concept that shares weights with another, and for params that do not
        fit.
    """
    index = _index_of(adapters, name)
    return _exchange(params, base_params, adapters, index, None, {})


def replace(
    params: Params,
    base_params: Params,
    adapters: Sequence[Adapter],
    name: str,
    new: Adapter,
    weight: float = 1.0,
    *,
    check_base: bool = True,
) -> Params:
    """Like `remove`, but with `new` in place of the concept. It equals the merge with `new` instead bit for bit.

    weight, check_base: as in `compose`. Raises UserError like `remove` and `compose`.
    """
    index = _index_of(adapters, name)
    after = [new if i == index else adapter for i, adapter in enumerate(adapters)]
    raise_problems(adapter_problems(after, None, allow_overlap=False))
    alone = compose(base_params, [new], [weight], check_base=check_base)
    return _exchange(params, base_params, adapters, index, new, _patches(alone, new))


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


def _index_of(adapters: Sequence[Adapter], name: str) -> int:
    indices = [i for i, adapter in enumerate(adapters) if adapter.name == name]
    if len(indices) != 1:
        raise UserError(f"{len(indices)} of the merged concepts are named {name!r}: {[a.name for a in adapters]}")
    index = indices[0]
    others = [other for i, other in enumerate(adapters) if i != index]
    if sharing := [repr(other.name) for other in others if shared_layers(adapters[index], other)]:
        raise UserError(
            f"{name!r} shares weights with {', '.join(sharing)}, so its part cannot be separated: merge the others "
            "again"
        )
    return index


def _exchange(
    params: Params,
    base_params: Params,
    adapters: Sequence[Adapter],
    index: int,
    new: Adapter | None,
    patches: Mapping[str, Patch],
) -> Params:
    base = _leaves(base_params)
    counts = [sum(token_counts([adapter]).values()) for adapter in adapters]
    _check_leaves(_leaves(params), base, sum(counts))
    old = _patches(base_params, adapters[index])

    def exchanged(path, leaf):
        name = leaf_path(path)
        for group in (old, patches):
            leaf = _select(*group[name], leaf) if name in group else leaf
        if name not in _COMPONENT_OF_TABLE:
            return leaf
        vectors = [v for _, v in ordered_tokens([new] if new else [], _COMPONENT_OF_TABLE[name])]
        first = len(base[name]) + sum(counts[:index])
        return _exchange_rows(leaf, first, counts[index], vectors) if counts[index] or vectors else leaf

    with np.errstate(over="ignore", invalid="ignore"):
        result = jax.tree_util.tree_map_with_path(exchanged, params)
    check_overflow(params, result, {*patches, *_COMPONENT_OF_TABLE.keys() & base.keys()}, every=False)
    return result


def _patches(source: Params | None, adapter: Adapter) -> dict[str, Patch]:
    """For every kernel that the adapter changes: a mask of the entries that it owns, and the kernel in `source`."""
    leaves, patches = _leaves(source) if source is not None else {}, {}
    for component, layers in adapter.shapes().items():
        for layer, shape in layers.items():
            mask = np.zeros(shape, bool)
            mask[np.ix_(*adapter.info.support(component, layer, shape))] = True
            path = f"{component}/{layer}/kernel"
            patches[path] = mask, leaves.get(path)
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
