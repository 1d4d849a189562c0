"""A model in memory whose concepts are exchanged, in the time that the weights take which they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens
from blocklora_jax.composing.check import adapter_problems, params_problems, raise_problems
from blocklora_jax.composing.compose import Block, canonical_order, kernel_blocks, merge_kernel
from blocklora_jax.composing.grid import exchange_on_grid, merge_on_grid
from blocklora_jax.composing.overflow import check_overflow, may_overflow
from blocklora_jax.composing.overlap import layers_on_grid
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params, unflatten_params
from blocklora_jax.layouts.token_tables import TOKEN_TABLES

if TYPE_CHECKING:
    from blocklora_jax.pipeline import MergedModel, StableDiffusion

# Up to how many times its largest weight a kernel's changes may add up to, so that their sum can be read off the merged
# kernel (see `composing.grid`: 7).
_MOST = 6.5
_KERNEL = "/kernel"


class _Member(NamedTuple):
    """A concept that is in the model. sizes: bounds on the entries of its changes, by kernel path."""

    adapter: Adapter
    weight: float
    blocks: Mapping[str, list[Block]]
    sizes: Mapping[str, float]


class AdapterSwitch:
    """Holds a base model and any number of adapters, and gives the model with those that are wanted now.

    The base is never written to. So without concepts the weights are its own arrays, and after any number of exchanges
    they equal `compose` of the concepts that are in it, bit for bit. An exchange costs the time of the kernels that the
    exchanged concepts change; nothing is compiled again, because the token tables keep one size.

    >>> from blocklora_jax import StableDiffusion
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> sd = StableDiffusion.from_pretrained("pocket")
    >>> ada, bob = (random_adapter(n, sd.params, slots=(i,), layers="cross_kv") for i, n in enumerate(["ada", "bob"]))
    >>> switch = AdapterSwitch(sd, [ada, bob])
    >>> switch.use(["ada"])
    MergedModel('pocket' with ada (1))
    >>> switch.use(["bob", "ada"], weights=[1, 0.5])
    MergedModel('pocket' with bob (1), ada (0.5))
    """

    def __init__(self, sd: StableDiffusion, adapters: Sequence[Adapter], *, check_base: bool = True) -> None:
        """sd: the base model. adapters: all that may be wanted, with different names.

        Raises: UserError for adapters that do not fit the base, or that have one name.
        """
        self._sd, self._known = sd, {adapter.name: adapter for adapter in adapters}
        if len(self._known) < len(adapters):
            raise UserError("two adapters have one name: each must have its own")
        if wide := [adapter.name for adapter in adapters if adapter.vectors]:
            raise UserError(f"{wide[0]!r} changes norms or biases, which cannot be exchanged: use merge.compose")
        raise_problems(params_problems(sd.params, adapters, check_base=check_base))
        self._base = flatten_params(sd.params)
        self._leaves = dict(self._base)
        self._members: dict[str, _Member] = {}
        self._agreed: set[frozenset[str]] = set()
        self._largest: dict[str, float] = {}
        self._tables = {
            path: _with_room(self._base[path], sum(len(v) for _, v in ordered_tokens(adapters, component)))
            for component, path in TOKEN_TABLES.items()
            if path in self._base
        }

    def use(self, names: Sequence[str], weights: Sequence[float] | None = None) -> MergedModel:
        """The model with these concepts and no others, for drawing. Models given before must not be used any more.

        weights: one for each; 1 by default. The tokens are in the order of `names`.

        Raises: UserError for unknown names, and as `compose` does. The concepts from before are then still in it.
        """
        wanted = self._members_of(names, weights)
        out = [member for name, member in self._members.items() if wanted.get(name) is not member]
        new = [member for name, member in wanted.items() if self._members.get(name) is not member]
        changed = self._changed_kernels(list(wanted.values()), out, new)
        factors = [member.weight for member in new]
        every = may_overflow([member.adapter for member in new], factors)
        check_overflow(self._base, changed, changed.keys(), every=every)
        self._leaves |= changed
        self._members = wanted
        adapters = [member.adapter for member in wanted.values()]
        for component, path in TOKEN_TABLES.items():
            if path in self._tables:
                rows = [vectors for _, vectors in ordered_tokens(adapters, component)]
                self._tables[path] = _with_rows(self._tables[path], rows, len(self._base[path]))
        params = unflatten_params({**self._leaves, **self._tables})
        return self._sd.with_params(params, adapters, [member.weight for member in wanted.values()])

    def _members_of(self, names: Sequence[str], weights: Sequence[float] | None) -> dict[str, _Member]:
        """The members by name; those that stay are the same objects. Raises: UserError if they cannot be together."""
        if unknown := [name for name in names if name not in self._known]:
            raise UserError(f"there is no adapter {unknown[0]!r}: known are {', '.join(self._known)}")
        if len(set(names)) < len(names):
            raise UserError(f"a concept is named twice: {', '.join(names)}")
        factors = [1.0] * len(names) if weights is None else list(weights)
        if len(factors) != len(names):
            raise UserError(f"{len(factors)} weights for {len(names)} concepts: give one weight for each, or none")
        for pair in set(map(frozenset, combinations(names, 2))) - self._agreed:
            raise_problems(adapter_problems([self._known[name] for name in sorted(pair)], None, False))
            self._agreed.add(pair)
        return {name: self._member(name, weight) for name, weight in zip(names, factors, strict=True)}

    def _member(self, name: str, weight: float) -> _Member:
        before = self._members.get(name)
        if before is not None and before.weight == weight:
            return before
        adapter = self._known[name]
        raise_problems(adapter_problems([adapter], [weight], False))
        blocks = kernel_blocks([adapter], [weight])
        return _Member(adapter, weight, blocks, {path: sum(map(_largest_entry, each)) for path, each in blocks.items()})

    def _changed_kernels(
        self, wanted: Sequence[_Member], out: Sequence[_Member], new: Sequence[_Member]
    ) -> dict[str, Any]:
        """The merged kernels, by path, that differ from those before."""
        grids = [layers_on_grid([m.adapter for m in members]) for members in (self._members.values(), wanted)]
        order = canonical_order([m.adapter for m in wanted], [m.weight for m in wanted])
        changed: dict[str, Any] = {}
        for path in {path for member in (*out, *new) for path in member.blocks}:
            base, layer = self._base[path], path.removesuffix(_KERNEL)
            blocks = [block for i in order for block in wanted[i].blocks.get(path, ())]
            if not blocks:
                changed[path] = base
            elif layer not in grids[1]:
                # Blocks that do not overlap: all of them together cost no more than one product of the kernel's size.
                changed[path] = merge_kernel(base, blocks, overlapping=False)
            elif layer in grids[0] and len(out) + len(new) < len(blocks) and self._can_be_read(path):
                less = [(-block.a, block.b) for member in out for block in member.blocks.get(path, ())]
                more = [(block.a, block.b) for member in new for block in member.blocks.get(path, ())]
                changed[path] = exchange_on_grid(self._leaves[path], base, less + more)
            else:
                changed[path] = merge_on_grid(base, [(block.a, block.b) for block in blocks])
        return changed

    def _can_be_read(self, path: str) -> bool:
        """Whether the sum of changes in a kernel is surely so small that it can be read off the merged kernel."""
        if path not in self._largest:
            self._largest[path] = float(np.abs(np.asarray(self._base[path], np.float32)).max(initial=0))
        sizes = [member.sizes.get(path, 0.0) for member in self._members.values()]
        dtypes = {np.dtype(self._base[path].dtype), np.dtype(self._leaves[path].dtype)}
        return dtypes == {np.dtype(np.float32)} and sum(sizes) <= _MOST * self._largest[path]


def _largest_entry(block: Block) -> float:
    """A bound on the entries of a change, from the norms of its rows and columns."""
    rows, columns = np.square(block.a).sum(1).max(initial=0), np.square(block.b).sum(0).max(initial=0)
    return float(rows * columns) ** 0.5


def _with_room(table: Any, rows: int) -> Any:
    """A copy of a token table with rows of zeros at its end."""
    if isinstance(table, np.ndarray):
        return np.concatenate([table, np.zeros((rows, table.shape[1]), table.dtype)])
    return jnp.concatenate([table, jnp.zeros((rows, table.shape[1]), table.dtype)])


def _with_rows(table: Any, vectors: Sequence[Any], first: int) -> Any:
    """The table with `vectors` from row `first` on, and zeros after them. The given table is overwritten."""
    room = np.zeros((len(table) - first, table.shape[1]), table.dtype)
    if vectors:
        rows = np.concatenate([np.asarray(each, table.dtype) for each in vectors])
        room[: len(rows)] = rows
    if isinstance(table, np.ndarray):
        table[first:] = room
        return table
    return _overwrite(table, room, first)


@partial(jax.jit, donate_argnums=0)
def _overwrite(table: Any, rows: Any, first: Any) -> Any:
    return jax.lax.dynamic_update_slice(table, rows, (first, 0))
