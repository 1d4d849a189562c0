"""The registry as data: claims, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklora_jax.adapters.partition import Partition, slot_from_name
from blocklora_jax.errors import UserError
from blocklora_jax.registry.claims import Entry, Registry

NAMES = st.sampled_from([f"p{i}" for i in range(12)])


def entry(name: str, *slots: int, **fields) -> Entry:
    return Entry(**{"name": name, "token": f"<{name}>", "slots": slots, **fields})


def make_registry(*entries: Entry, blocks: int = 4) -> Registry:
    return Registry(partition=Partition(num_blocks=blocks), base_name="pocket", base_digest="a" * 64, entries=entries)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(NAMES, st.sampled_from(["free", "name"]), st.integers(1, 3)), max_size=12))
def test_claims_never_collide_and_are_kept_in_json(claims):
    registry = make_registry(blocks=8)
    for name, draw, count in claims:
        before = registry.free_slots()
        try:
            registry = registry.claim(entry(name, *registry.draw_slots(name, draw, count)))
        except UserError:
            assert registry.free_slots() == before
    owned = [slot for e in registry.entries for slot in e.slots]
    assert len(owned) == len(set(owned))
    assert sorted(owned + registry.free_slots()) == list(range(8))
    assert registry.collisions() == []
    assert all(registry.find(e.token) == e for e in registry.entries)
    assert Registry.from_json(json.loads(json.dumps(registry.to_json())), "x") == registry


def test_slots_are_the_lowest_free_ones_or_the_names_hash():
    registry = make_registry(entry("ada", 0, 2), blocks=8)
    assert registry.draw_slots("bob", "free", 2) == (1, 3)
    assert registry.draw_slots("bob", "name") == (slot_from_name("bob", 8),)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (entry("bob", 0), "slot 0 is taken by 'ada' (of me@x.org): free slots are 2, 3"),
        (entry("bob", 0, 1), "slot 0 is taken by 'ada' (of me@x.org); slot 1 is taken by 'rex': free slots are 2, 3"),
        (entry("ada", 2, token="<a>"), "the name 'ada' is taken"),
        (entry("bob", 2, token="<ada>"), "the token <ada> is taken by 'ada' (of me@x.org)"),
        (entry("bob", 2, token="bob"), "must look like '<name>'"),
        (entry("bob", 4), "must be distinct numbers from 0 to 3"),
        (entry("bob"), "one or more"),
    ],
)
def test_the_error_for_a_claim_says_who_has_the_slot_and_which_are_free(claim, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_registry(entry("ada", 0, owner="me@x.org"), entry("rex", 1)).claim(claim)


def test_a_full_registry_says_what_to_do():
    full = make_registry(*(entry(f"p{i}", i) for i in range(4)))
    for attempt in (lambda: full.draw_slots("q", "free"), lambda: full.claim(entry("q", 1))):
        with pytest.raises(UserError, match=r"all 4 slots are taken; .*registry drop.*--blocks.*--concepts 8"):
            attempt()
    assert full.drop("p2").draw_slots("q", "free") == (2,)
    with pytest.raises(UserError, match="no entry 'q'; it has p0, p1, p2, p3"):
        full.drop("q")
    with pytest.raises(UserError, match="one slot or more, not 0"):
        full.draw_slots("q", "free", 0)


def test_collisions_written_by_hand_are_reported_before_training():
    registry = make_registry(
        entry("ada", 0, 1), entry("bob", 1, owner="bob"), entry("cyd", 2, token="<ada>"), entry("dan", 3)
    )
    assert registry.collisions() == [
        "'ada' and 'bob' (of bob) both own slot 1",
        "'ada' and 'cyd' both use the token <ada>",
    ]
    assert registry.find("<dan>").slots == (3,)
    for token in ("<ada>", "<bob>"):
        with pytest.raises(UserError, match="collide in the registry"):
            registry.find(token)
    with pytest.raises(UserError, match="has no token <eve>"):
        registry.find("<eve>")


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(NAMES, st.integers(1, 3)), max_size=12), st.integers(1, 3))
def test_slots_have_as_many_owners_as_the_registry_allows_and_fill_up_evenly(claims, per_slot):
    registry = replace(make_registry(blocks=5), per_slot=per_slot)
    for name, count in claims:
        try:
            registry = registry.claim(entry(name, *registry.draw_slots(name, "free", count)))
        except UserError:
            continue
    owners = Counter(slot for e in registry.entries for slot in e.slots)
    assert max(owners.values(), default=0) <= per_slot
    assert max(owners.values(), default=0) - min(owners[slot] for slot in range(5)) <= 1
    assert registry.collisions() == []
    assert all(registry.find(e.token) == e for e in registry.entries)
    assert Registry.from_json(json.loads(json.dumps(registry.to_json())), "x") == registry
    assert ("per_slot" in registry.to_json()) == (per_slot > 1)


def test_concepts_of_one_slot_conflict_and_a_concept_can_be_kept_apart_from_others():
    registry = replace(make_registry(entry("ada", 0), entry("bob", 1), entry("cyd", 0), blocks=3), per_slot=2)
    assert registry.conflicts(["ada", "bob"]) == []
    message = "'ada' and 'cyd' both own slot 0: they cannot be merged with each other"
    assert registry.conflicts(["ada", "bob", "cyd"]) == [message]
    with pytest.raises(UserError, match="no entry 'eve'"):
        registry.conflicts(["ada", "eve"])
    assert registry.draw_slots("eve", "free", apart=["ada"]) == (2,)
    full = replace(registry, entries=(*registry.entries, entry("dan", 2), entry("eve", 2)))
    assert full.draw_slots("flo", "free", apart=["ada"]) == (1,)
    with pytest.raises(UserError, match="fewer than 1 free slots"):
        full.draw_slots("flo", "free", apart=["bob"])
    with pytest.raises(UserError, match="slot 0 is taken by 'cyd'"):
        full.claim(entry("flo", 0))


def test_a_claim_is_kept_apart_however_its_slots_were_chosen():
    registry = replace(make_registry(entry("ada", 0), entry("bob", 1), blocks=3), per_slot=2)
    with pytest.raises(UserError, match="'ada' owns slot 0 too, so 'cyd' could not be merged with it: choose another"):
        registry.claim(entry("cyd", 0, 2), apart=["bob", "ada"])
    assert registry.claim(entry("cyd", 0, 2), apart=["bob"]).find("<cyd>").slots == (0, 2)
    message = "the registry has no entry 'adda'; it has ada, bob"
    for attempt in (
        lambda: registry.claim(entry("cyd", 2), apart=["adda"]),
        lambda: registry.draw_slots("cyd", "free", apart=["adda"]),
    ):
        with pytest.raises(UserError, match=message):
            attempt()


GOOD = json.loads(json.dumps(make_registry(entry("ada", 0)).to_json()))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "not a slot registry"),
        ({"name": "x"}, "not a slot registry"),
        (GOOD | {"blocklora_registry": 2}, "of version 2; this program reads 1"),
        ({k: v for k, v in GOOD.items() if k != "entries"}, "check entries"),
        (GOOD | {"colour": 1}, "check colour"),
        (GOOD | {"per_slot": 0}, "must be a whole number from 1"),
        (GOOD | {"per_slot": True}, "must be a whole number from 1"),
        (GOOD | {"base_digest": None}, "must be strings"),
        (GOOD | {"partition": {"num_blocks": 4}}, "must have num_blocks, axis and seed"),
        (GOOD | {"partition": {"num_blocks": 4.5, "axis": "in", "seed": 0}}, "whole numbers"),
        (GOOD | {"partition": {"num_blocks": 4, "axis": "up", "seed": 0}}, "unknown block axis 'up'"),
        (GOOD | {"entries": 3}, "cannot be read"),
        (GOOD | {"entries": [{"name": "a", "token": "<a>"}]}, "must have name, token, slots"),
        (GOOD | {"entries": [{"name": "a", "token": "<a>", "slots": [True]}]}, "whole numbers"),
        (GOOD | {"entries": [{"name": "a", "token": 1, "slots": [1]}]}, "must have texts"),
        (GOOD | {"entries": [{"name": "a", "token": "<a>", "slots": [4]}]}, "from 0 to 3"),
    ],
)
def test_a_file_that_is_no_registry_is_refused_by_name(value, message):
    with pytest.raises(UserError, match=r"shared/x\.json") as error:
        Registry.from_json(value, "shared/x.json")
    assert message in str(error.value)
