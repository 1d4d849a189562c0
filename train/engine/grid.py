"""How many devices share the rows of a concept, and how many groups of devices share the concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def choose_groups(devices: int, concepts: int, rows: Sequence[int]) -> int:
    """The number of groups of devices among which the concepts are divided, a divisor of `devices`.

    The devices of a group share the rows of its concepts. The choice is the one with the least work for each device,
    padding included; of equal ones the one with the fewest copies of concepts, then the one that exchanges least.

    rows: for each sort of rows their number for one concept; the sort that costs most comes first.
    """
    divisors = [groups for groups in range(1, devices + 1) if devices % groups == 0]

    def cost(groups: int) -> tuple[list[int], int, int]:
        of_each = round_up(concepts, groups) // groups
        work = [of_each * round_up(count, devices // groups) // (devices // groups) for count in rows]
        return work, of_each * groups - concepts, -groups

    return min(divisors, key=cost)


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `count`."""
    return -(-count // multiple) * multiple


def repeat_last(items: Sequence[T], multiple: int) -> list[T]:
    """`items`, and the last of them again, until their number is a multiple of `multiple`."""
    return [*items, *[items[-1]] * (round_up(len(items), multiple) - len(items))]
