"""Which concepts a prompt calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.calls import called_adapters, find_calls, only_calling
from blocklora_jax.diffusion.regions import side_by_side
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params

PARTY = "a photo of Annie at a party"


@pytest.fixture(scope="module")
def called_by():
    """An adapter with a trigger and no token, as of other programs."""
    plain = random_adapter("ada", tiny_params(), slots=(0,))

    def make(trigger: str, noun: str = "woman", kind: str = "person") -> Adapter:
        info = replace(plain.info, name=trigger, trigger=trigger, class_noun=noun, kind=kind)
        return replace(plain, tokens={}, info=info)

    return make


def test_a_trigger_inside_another_word_calls_nobody(called_by):
    ann, annie, art = (called_by(trigger) for trigger in ("ann", "annie", "art"))
    assert called_adapters(PARTY, [ann, annie, art]) == [annie]
    assert only_calling(annie, PARTY, [ann, annie, art]) == PARTY
    assert side_by_side(PARTY, [ann, annie, art]) == []
    # Scripts without spaces between words have no such borders.
    assert called_adapters("一张小红的照片", [called_by("小红")])
    # A trigger may begin or end with a mark.
    assert called_adapters("(sks!), a dog", [called_by("sks!")])


def test_the_longer_of_two_triggers_is_called_where_one_holds_the_other(called_by):
    ann, lee = called_by("ann"), called_by("ann lee", "girl")
    assert [(c.adapter.name, c.start) for c in find_calls("ann lee and ann", [ann, lee])] == [
        ("ann lee", 0),
        ("ann", 12),
    ]
    assert only_calling(lee, "ann lee and ann", [ann, lee]) == "ann lee and a woman"
    assert only_calling(ann, "ann lee and ann", [ann, lee]) == "a girl and ann"
    assert called_adapters("a photo of ann lee", [ann, lee]) == [lee]


def test_two_concepts_with_one_trigger_are_both_called(called_by):
    first, second = called_by("ann"), called_by("ann", "girl")
    assert called_adapters("ann", [first, second]) == [first, second]
    assert only_calling(first, "a photo of ann", [first, second]) == "a photo of ann"
