"""How devices are divided among concepts and rows."""

from __future__ import annotations

import math

import pytest

from train.engine.grid import choose_groups, repeat_last, round_up

DEFAULT = (6, 24)  # rows of the default settings


@pytest.mark.parametrize(
    ("devices", "concepts", "rows", "groups"),
    [
        (1, 7, DEFAULT, 1),
        (8, 1, DEFAULT, 1),  # one row each; two rows of a step are padding
        (8, 1, (1, 4), 1),  # copies of a concept would gain nothing
        (8, 7, DEFAULT, 8),  # one concept each and one copy, instead of seven times eight rows for six
        (8, 2, DEFAULT, 2),
        (8, 4, (8, 8), 4),
        (2, 7, DEFAULT, 1),  # the rows can be divided evenly, the concepts cannot
        (6, 4, (6, 6), 2),
    ],
)
def test_the_division_with_the_least_work_is_chosen(devices, concepts, rows, groups):
    assert choose_groups(devices, concepts, rows) == groups


def test_no_division_has_less_work_for_the_slowest_device():
    for devices in (1, 2, 3, 4, 6, 8):
        for concepts in range(1, 17):
            for rows in (1, 2, 6, 8):
                work = {
                    groups: math.ceil(concepts / groups) * math.ceil(rows / (devices // groups))
                    for groups in range(1, devices + 1)
                    if devices % groups == 0
                }
                assert work[choose_groups(devices, concepts, (rows, 4 * rows))] == min(work.values())


def test_the_last_item_is_repeated():
    assert repeat_last("abc", 4) == ["a", "b", "c", "c"]
    assert repeat_last("abcd", 4) == ["a", "b", "c", "d"]
    assert repeat_last("a", 4) == ["a"] * 4
    assert [round_up(count, 4) for count in (0, 1, 4, 5)] == [0, 4, 4, 8]
