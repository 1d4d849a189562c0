"""Tensors that are missing, given twice, misshapen, of a wrong type, or not finite."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.fuzz.adapter_specimens import Specimen
from benchmarks.fuzz.raw_safetensors import FLOAT8_DTYPES, WRONG_DTYPES, RawFile, Tensor
from benchmarks.fuzz.trial import Case, Trial

_SPECIAL = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}
_SHAPES = {
    "flat": lambda shape: [int(np.prod(shape))],
    "one axis more": lambda shape: [1, *shape],
    "transposed": lambda shape: shape[::-1],
    "10^12": lambda shape: [10**12, *shape[1:]],
    "negative": lambda shape: [-1, *shape[1:]],
    "no numbers": lambda shape: [],
    "zero": lambda shape: [0, *shape[1:]],
    "zero by 10^12": lambda shape: [0, 10**12],
    "2^63": lambda shape: [1 << 63, *shape[1:]],
    "70 axes": lambda shape: [*shape, *[1] * 68],
    "one row more": lambda shape: [shape[0] + 1, *shape[1:]],
}


class _Change(NamedTuple):
    """A change of a file. good: whether the file must give the same result as before; else it must be refused."""

    title: str
    apply: Callable[[RawFile, int], RawFile]
    good: bool = False


def tensor_cases(specimens: list[Specimen]) -> list[Case]:
    """Every change of every specimen, each to a random tensor."""
    return [
        Case(f"{specimen.name}: {change.title}", functools.partial(_make, specimen, change))
        for specimen in specimens
        for change in _changes(specimen)
    ]


def _make(specimen: Specimen, change: _Change, rng: np.random.Generator, scratch: Path) -> Trial:
    raw = specimen.raw
    matrices = [i for i, tensor in enumerate(raw.tensors) if len(tensor.shape) > 1]
    data = change.apply(raw, int(rng.choice(matrices))).pack()
    return specimen.trial(data, scratch, accept=None if change.good else (), must_load=change.good)


def _changes(specimen: Specimen) -> Iterator[_Change]:
    yield _Change("nothing changed", lambda raw, i: raw, good=True)
    yield _Change("tensors in reverse order", lambda raw, i: replace(raw, tensors=raw.tensors[::-1]), good=True)
    yield _Change("a tensor missing", lambda raw, i: replace(raw, tensors=raw.tensors[:i] + raw.tensors[i + 1 :]))
    yield _Change("no tensors", lambda raw, i: replace(raw, tensors=[]))
    yield _Change(
        "a tensor of nothing known", lambda raw, i: _with(raw, replace(raw.tensors[i], name="unknown.weight"))
    )
    for name in ("", "\x1b[31mred", "x" * 100_000, "../../escaped", "a\nb"):
        yield _Change(
            f"a tensor named {name[:12]!r}", lambda raw, i, n=name: raw.replaced(i, lambda t: replace(t, name=n))
        )
    yield _Change(
        "20,000 tensors of nothing",
        lambda raw, i: _with(raw, *[Tensor(f"t{n}", "F32", [0], b"") for n in range(20_000)]),
    )
    for words, value in _SPECIAL.items():
        yield _Change(f"one {words}", lambda raw, i, v=value: raw.replaced(i, lambda t: t.filled(v, 5)))
        yield _Change(f"all {words}", lambda raw, i, v=value: raw.replaced(i, lambda t: t.filled(v)))
    yield _Change("one 1e38 in fp64", lambda raw, i: raw.replaced(i, lambda t: t.cast("F64").filled(1e300, 0)))
    yield _Change("fp64", lambda raw, i: raw.replaced(i, lambda t: t.cast("F64")), good=True)
    for dtype in (*WRONG_DTYPES, *(FLOAT8_DTYPES if specimen.ours else ())):
        yield _Change(f"{dtype} in one", lambda raw, i, d=dtype: raw.replaced(i, lambda t: t.cast(d)))
        yield _Change(f"{dtype} in all", lambda raw, i, d=dtype: replace(raw, tensors=[t.cast(d) for t in raw.tensors]))
    for dtype in ("F4", "F6_E2M3", "F8_E8M0", "F33", "f32"):
        yield _Change(f"{dtype} by name", lambda raw, i, d=dtype: raw.replaced(i, lambda t: replace(t, dtype=d)))
    for words, make in _SHAPES.items():
        yield _Change(f"shape {words}", lambda raw, i, m=make: raw.replaced(i, lambda t: replace(t, shape=m(t.shape))))
    yield _Change("rank 0 in one layer", lambda raw, i: _without_rank(raw, {_layer(raw.tensors[_pair(raw, i)].name)}))
    yield _Change("rank 0 in all layers", lambda raw, i: _without_rank(raw, {_layer(t.name) for t in raw.tensors}))
    yield _Change("a rank too few", lambda raw, i: raw.replaced(_pair(raw, i), _shorter))
    if not specimen.ours and any(tensor.name.endswith(".alpha") for tensor in specimen.raw.tensors):
        yield from _alpha_changes()


def _alpha_changes() -> Iterator[_Change]:
    def alphas(raw: RawFile, change: Callable[[Tensor], Tensor]) -> RawFile:
        return replace(raw, tensors=[change(t) if t.name.endswith(".alpha") else t for t in raw.tensors])

    for value in (np.nan, np.inf, 3.4e38, 0.0):
        yield _Change(f"alpha {value:g}", lambda raw, i, v=value: alphas(raw, lambda t: t.cast("F32").filled(v)))
    yield _Change("alpha of two numbers", lambda raw, i: alphas(raw, lambda t: replace(t, shape=[2], data=2 * t.data)))
    yield _Change("alpha of no numbers", lambda raw, i: alphas(raw, lambda t: replace(t, shape=[0], data=b"")))
    yield _Change("alpha as [1]", lambda raw, i: alphas(raw, lambda t: replace(t, shape=[1])), good=True)
    # kohya's trainer saves alpha with the type that it was given, which is often a whole number.
    yield _Change("alpha as a whole number", lambda raw, i: alphas(raw, lambda t: t.cast("I64")), good=True)


def _with(raw: RawFile, *tensors: Tensor) -> RawFile:
    return replace(raw, tensors=[*raw.tensors, *tensors])


def _pair(raw: RawFile, index: int) -> int:
    """`index`, or, if the tensor there is not part of a pair, the index of one that is."""
    return (
        index
        if _rank_axis(raw.tensors[index].name) is not None
        else next(i for i, tensor in enumerate(raw.tensors) if _rank_axis(tensor.name) is not None)
    )


def _layer(name: str) -> str:
    for role in (
        "/lora_A",
        "/lora_B",
        ".lora_A.",
        ".lora_B.",
        ".lora_down.",
        ".lora_up.",
        ".lora_mid.",
        "_lora.down.",
        "_lora.up.",
    ):
        name = name.replace(role, "@")
    return name.split("@")[0]


def _rank_axis(name: str) -> int | None:
    """The axis of the rank in a tensor of a pair; None for other tensors."""
    if name.startswith("lora/"):
        return 1 if name.endswith("lora_A") else 0
    if any(role in name for role in (".lora_A.", ".lora_down.", "_lora.down.")):
        return 0
    return 1 if any(role in name for role in (".lora_B.", ".lora_up.", "_lora.up.")) else None


def _without_rank(raw: RawFile, layers: set[str]) -> RawFile:
    def change(tensor: Tensor) -> Tensor:
        axis = _rank_axis(tensor.name)
        if axis is None or _layer(tensor.name) not in layers:
            return tensor
        return replace(tensor, shape=[0 if i == axis else size for i, size in enumerate(tensor.shape)], data=b"")

    return replace(raw, tensors=[change(tensor) for tensor in raw.tensors])


def _shorter(tensor: Tensor) -> Tensor:
    """One tensor of a pair with a lower rank than the other one."""
    axis = _rank_axis(tensor.name)
    array = np.delete(tensor.array, 0, axis)
    return replace(tensor, shape=list(array.shape), data=np.ascontiguousarray(array).tobytes())
