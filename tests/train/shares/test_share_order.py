"""Which groups a share trains, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora_jax.errors import UserError
from train.shares.share import Share


@given(st.integers(1, 9), st.integers(0, 40))
def test_every_group_is_the_own_of_one_share_and_each_share_can_do_all(count, groups):
    orders = [Share(index, count).order(groups) for index in range(count)]
    own = [order[: len(range(i, groups, count))] for i, order in enumerate(orders)]
    assert sorted(group for each in own for group in each) == list(range(groups))
    assert all(sorted(order) == list(range(groups)) for order in orders)


@pytest.mark.parametrize(
    ("text", "message"),
    [("8/8", "counted from 0, so the last one is 7/8"), ("1", "must be I/N"), ("a/2", "I/N"), ("0/0", "I/N"),
     ("-1/4", "I/N")],
)  # fmt: skip
def test_what_is_no_share_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        Share.parse(text)
