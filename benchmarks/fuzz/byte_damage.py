"""Damage to the bytes of any file, as caused by disks, networks and people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Damage = Callable[[bytes, np.random.Generator, int, int], bytes]


def _flip(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    array = bytearray(data)
    array[_place(rng, low, high)] ^= 1 << int(rng.integers(8))
    return bytes(array)


def _swap(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    array, (i, j) = bytearray(data), (_place(rng, low, high), _place(rng, low, high))
    array[i], array[j] = array[j], array[i]
    return bytes(array)


def _overwrite(value: int) -> Damage:
    def damage(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
        start = _place(rng, low, high)
        end = min(high, start + int(rng.choice([16, 512, 4096])))
        return data[:start] + bytes([value]) * (end - start) + data[end:]

    return damage


def _truncate(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    return data[: _place(rng, low, high)]


def _delete(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    start = _place(rng, low, high)
    return data[:start] + data[start + int(rng.choice([1, 8, 64])) :]


def _insert(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    start = _place(rng, low, high)
    return data[:start] + rng.bytes(int(rng.choice([1, 8, 64]))) + data[start:]


def _append(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    return data + rng.bytes(int(rng.choice([1, 8, 4096])))


def _repeat(data: bytes, rng: np.random.Generator, low: int, high: int) -> bytes:
    """A block of the file in the place of the next one, as a failed write may leave it."""
    size = max(1, min(int(rng.choice([64, 512])), (high - low) // 2))
    start = _place(rng, low, max(low + 1, high - 2 * size))
    return data[: start + size] + data[start : start + size] + data[start + 2 * size :]


# Damage that keeps the length of the file, and damage that changes it.
SAME_LENGTH: Mapping[str, Damage] = {
    "a flipped bit": _flip, "two bytes swapped": _swap, "a block of zeros": _overwrite(0),
    "a block of ones": _overwrite(255),
    "a block twice": _repeat,
}  # fmt: skip
OTHER_LENGTH: Mapping[str, Damage] = {
    "cut short": _truncate, "bytes missing": _delete, "bytes too many": _insert, "bytes at the end": _append,
}  # fmt: skip


def damage(name: str, data: bytes, rng: np.random.Generator, low: int = 0, high: int | None = None) -> bytes:
    """`data` with the damage `name` at a random place in low..high; never equal to `data`."""
    make, end = {**SAME_LENGTH, **OTHER_LENGTH}[name], len(data) if high is None else high
    for _ in range(100):
        if (changed := make(data, rng, low, end)) != data:
            return changed
    return _flip(data, rng, low, end)


def _place(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, max(high, low + 1)))
