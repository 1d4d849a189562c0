"""Training on a slot that is claimed in a registry."""

from __future__ import annotations

import re

import pytest
from concept_builders import make_config

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.registry.claims import Entry, Registry
from train.concept.claims import check_base, use_claim

BOOK = Registry(
    partition=Partition(num_blocks=4), base_name="pocket", base_digest="a" * 64,
    entries=(Entry(name="ada", token="<ada>", slots=(1, 3)),),
)  # fmt: skip


def test_the_claimed_slots_are_used():
    config = make_config(slot=None)
    assert use_claim(config, BOOK) == make_config(slot=(1, 3))
    assert use_claim(make_config(slot=(3, 1)), BOOK).adapter.slot == (1, 3)
    assert use_claim(config, None) is config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": "<bob>"}, "has no token <bob>"),
        ({"slot": (1,)}, "<ada> is registered for --slot 1 3, not 1"),
        ({"slot": None, "blocks": 0}, "train with --config feature_blocks --blocks 4 --axis in --partition-seed 0"),
        ({"slot": None, "blocks": 16}, "--blocks 4"),
        ({"slot": None, "axis": "out"}, "--axis in"),
        ({"slot": None, "partition_seed": 1}, "--partition-seed 0"),
    ],
)
def test_settings_that_differ_from_the_claim_are_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        use_claim(make_config(**changes), BOOK)


def test_another_base_is_refused():
    check_base(BOOK, "a" * 64, "x")
    check_base(None, "b" * 64, "x")
    with pytest.raises(UserError, match=r"the registry is for pocket \(aaaaaaaaaaaa\), but sd \(bbbbbbbbbbbb\)"):
        check_base(BOOK, "b" * 64, "sd")
