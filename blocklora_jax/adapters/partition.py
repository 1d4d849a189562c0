"""Blocks and slots: which part of every weight an adapter owns."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from typing import NamedTuple, get_args

import numpy as np

from blocklora_jax.adapters.axis import Assignment, Axis
from blocklora_jax.errors import UserError

MOST_BLOCKS = 1 << 16  # more than the features of any layer


class Support(NamedTuple):
    """The features of one layer that an adapter owns: its kernel entries are `rows` x `columns`.

    rows: int [n_owned], sorted input features (rows of the Flax kernel [n, m]).
    columns: int [m_owned], sorted output features (columns of the Flax kernel).
    """

    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How every adapted weight is cut into `num_blocks` blocks that different adapters own.

    num_blocks: K, the number of blocks and of slots.
    axis: "in" cuts the input features (columns of W in R^{m x n}), "out" the output features, "grid" both.
    seed: seeds the permutation slot -> block of each layer.
    basis: "" divides the features themselves. Otherwise the digest of a basis (see `adapters.basis`), whose directions
        are dealt to the blocks in turn, so that each block has strong and weak ones. Such adapters change all input
        features of a weight, but each adapter in other directions.
    assignment: "layer" draws a slot's block anew for each layer. "text" gives a slot the same block in all layers that
        read text: slot s has the directions s, s + K, s + 2K, …, so that a token can lie in the directions that its
        adapter reads. This needs a basis, and the seed must be 0, because nothing is drawn.

    Source: our reading of BlockLoRA (arXiv 2503.08575): contiguous blocks, one permutation for each layer.
    """

    num_blocks: int = 16
    axis: Axis = "in"
    seed: int = 0
    basis: str = ""
    assignment: Assignment = "layer"

    def __post_init__(self) -> None:
        if self.basis and self.axis != "in":
            raise UserError(f"a basis divides input features: axis must be 'in', not {self.axis!r}")
        if not 1 <= self.num_blocks <= MOST_BLOCKS:
            raise UserError(f"num_blocks is {self.num_blocks}; it must be at least 1, at most {MOST_BLOCKS}")
        if self.axis not in get_args(Axis):
            raise UserError(f"unknown block axis {self.axis!r}; choose one of {', '.join(get_args(Axis))}")
        if self.assignment not in get_args(Assignment):
            raise UserError(f"unknown assignment {self.assignment!r}; choose one of {', '.join(get_args(Assignment))}")
        if self.assignment == "text" and (not self.basis or self.seed):
            raise UserError("one block for all layers that read text needs a basis and the partition seed 0")

    def __str__(self) -> str:
        if not self.basis:
            return f"{self.num_blocks} blocks of features, axis {self.axis!r}, seed {self.seed}"
        cut = f"{self.num_blocks} blocks in the basis {self.basis}"
        return f"{cut}, one for all layers" if self.assignment == "text" else f"{cut}, one a layer, seed {self.seed}"

    def check_slots(self, slots: tuple[int, ...]) -> tuple[int, ...]:
        """`slots`, sorted. Raises UserError if there are none, or if one is outside 0..K-1 or occurs twice."""
        wrong = [s for s in slots if not 0 <= s < self.num_blocks]
        if wrong or not slots or len(set(slots)) != len(slots):
            raise UserError(
                f"slots {list(slots)} must be distinct numbers from 0 to {self.num_blocks - 1}, one or more"
            )
        return tuple(sorted(slots))

    def support(self, path: str, shape: tuple[int, int], slots: tuple[int, ...]) -> Support:
        """The features that `slots` own in the layer `path` ("unet/…/to_k") with kernel `shape` [n, m]."""
        if self.basis:
            return full_support(shape)
        n, m = shape
        blocks = _slot_permutation(self.num_blocks, self.seed, path)[list(slots)]
        rows = self._features(blocks, n, path, "input") if self.axis != "out" else np.arange(n)
        columns = self._features(blocks, m, path, "output") if self.axis != "in" else np.arange(m)
        return Support(rows, columns)

    def directions(self, path: str, n: int, slots: tuple[int, ...]) -> np.ndarray:
        """The indices of the directions, of n in a basis, that `slots` own in the layer `path`; sorted.

        With the assignment "text" they are the same in all layers.

        Raises: UserError if there are fewer directions than blocks.
        """
        if n < self.num_blocks:
            raise UserError(f"a basis of {n} directions has too few for {self.num_blocks} blocks: choose fewer blocks")
        by_layer = self.assignment == "layer"
        blocks = _slot_permutation(self.num_blocks, self.seed, path)[list(slots)] if by_layer else slots
        return np.sort(np.concatenate([np.arange(block, n, self.num_blocks) for block in blocks]))

    def _features(self, blocks: np.ndarray, size: int, path: str, side: str) -> np.ndarray:
        if size < self.num_blocks:
            raise UserError(
                f"layer {path} has {size} {side} features, fewer than num_blocks={self.num_blocks}: "
                "choose fewer blocks or another axis"
            )
        # Blocks are contiguous. Their sizes differ by at most one.
        bounds = [i * size // self.num_blocks for i in range(self.num_blocks + 1)]
        return np.concatenate([np.arange(bounds[b], bounds[b + 1]) for b in sorted(blocks)])

    def to_json(self) -> dict:
        """The fields as plain JSON. `basis` and `assignment` are left out if they have their defaults (older files)."""
        defaults = {"basis": "", "assignment": "layer"}
        return {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}


@cache
def _slot_permutation(num_blocks: int, seed: int, path: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    # Philox is specified bit for bit. A file's slots must always mean the same blocks.
    keys = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(num_blocks)
    return np.argsort(keys, kind="stable")


def slot_from_name(name: str, num_blocks: int) -> int:
    """A slot in 0..num_blocks-1 from the SHA-256 of a concept's name, for people who cannot coordinate slots."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % num_blocks


def full_support(shape: tuple[int, int]) -> Support:
    """The support of an adapter without blocks: the whole kernel [n, m]."""
    return Support(np.arange(shape[0]), np.arange(shape[1]))
