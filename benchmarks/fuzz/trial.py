"""A case: one damaged input, the call that reads it, and the allowed results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Verdict(StrEnum):
    """The result of a case. The values are the columns of the table."""

    REFUSED = "refused in one line"
    BOX = "refused by a usage box"
    UNCHANGED = "loaded unchanged"
    APART = "apart"
    CHANGED = "loaded changed"
    TRACEBACK = "tracebacks"
    HANG = "hangs"
    MEMORY = "memory"
    NOISE = "unreadable output"
    GOOD_REFUSED = "good ones refused"


BAD = (Verdict.CHANGED, Verdict.TRACEBACK, Verdict.HANG, Verdict.MEMORY, Verdict.NOISE, Verdict.GOOD_REFUSED)


class _Anything:
    """Equal to any result of a call, for commands that may succeed."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ANYTHING = _Anything()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One damaged input, ready to be read.

    call: reads it and returns facts (see `facts.facts_of`), or runs a command.
    accept: the facts that are allowed; if empty, it must be refused.
    must_load: nothing is wrong with it, so it must not be refused.
    apart: whether other facts are counted as "apart", such as those of a flipped bit in a file without a digest.
    is_command: `call` itself uses the runner of commands.
    intact: returns what is wrong if the call changed something that it must not change; it is always called.
    """

    call: Callable[[], Any]
    accept: tuple[Any, ...] = ()
    must_load: bool = False
    apart: Callable[[Any], bool] = field(default=lambda facts: False)
    is_command: bool = False
    intact: Callable[[], str] = field(default=lambda: "")


class Case(NamedTuple):
    """A case before its files are made: a title, and `make(rng, scratch)`, which writes the files into `scratch`."""

    title: str
    make: Callable[[np.random.Generator, Path], Trial]


def choose(cases: list[Case], count: int, seed: int) -> list[Case]:
    """`count` of the cases, in their order. Each seed draws other ones."""
    if len(cases) <= count:
        return cases
    chosen = np.random.default_rng(seed).choice(len(cases), count, replace=False)
    return [cases[index] for index in sorted(chosen)]


class Result(NamedTuple):
    """The result of a case.

    detail: the line that was printed, or another explanation. growth: of the peak of memory, in MB.
    """

    index: int
    title: str
    verdict: Verdict
    detail: str
    seconds: float = 0.0
    growth: int = 0


class Matching:
    """Equal to all facts for which `holds` is true."""

    def __init__(self, holds: Callable[[Any], bool]) -> None:
        self._holds = holds

    def __eq__(self, other: object) -> bool:
        return self._holds(other)

    __hash__ = None  # type: ignore[assignment]
