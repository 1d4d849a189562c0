"""Wrong values that some fields may have nevertheless, and the allowed results for them."""

from __future__ import annotations

from typing import Any

from benchmarks.fuzz.facts import edited
from benchmarks.fuzz.wrong_values import Wrong

TEXTS = frozenset({"no text", "a word", "a number as text", "a path upwards", "an absolute path", "100,000 letters"})
NUMBERS = frozenset({"0", "-1", "a fraction", "10^9", "10^20", "-10^20"})
_FREE = frozenset({"name", "class_noun", "trigger", "base_name", "owner", "date", "training"})
# Another number, list or object in these fields is not damage: the file is valid, with another meaning.
_OTHERS: dict[Any, frozenset[str]] = {
    "seed": NUMBERS - {"a fraction"} | {"10^400", "10^5000"},
    "slots": frozenset({"a list of a number"}),
    "partition": frozenset({"null"}),
    "concepts": frozenset({"an empty list"}),
    "entries": frozenset({"an empty list"}),
    "tokens": frozenset({"an empty object"}),
    "shapes": frozenset({"an empty object"}),
    "unet": frozenset({"an empty object"}),
    "text_encoder": frozenset({"an empty object"}),
    "merge": frozenset({"null"}),
}


def stated(facts: Any, place: tuple[Any, ...] | None, field: Any, wrong: Wrong) -> tuple[Any, ...] | None:
    """Facts that are allowed besides the unchanged ones; None if the value is not damage.

    Args:
        facts: of the undamaged file.
        place: the path of the field in `facts`; None if they do not have it.
        field: its name.
        wrong: its new value.
    """
    if wrong.words in _OTHERS.get(field, ()) or (field == 0 and wrong.words == "0"):
        return None
    if place is None:
        return ()
    sound = (field in _FREE and wrong.words in TEXTS) or (field in ("alpha", "weight") and wrong.words in NUMBERS)
    empty = field in ("base_digest", "base_family", "origin") and wrong.words == "no text"
    return (edited(facts, place, wrong.value),) if sound or empty else ()
