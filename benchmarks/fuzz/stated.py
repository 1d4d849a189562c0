"""Wrong values that a field may have after all, and the result for each of them."""

from __future__ import annotations

from typing import Any

from benchmarks.fuzz.facts import edited
from benchmarks.fuzz.wrong_values import Wrong

TEXTS = frozenset({"no text", "a word", "a number as text", "a path upwards", "an absolute path", "100,000 letters"})
NUMBERS = frozenset({"0", "-1", "a fraction", "10^9", "10^20", "-10^20"})
_FREE = frozenset({"name", "class_noun", "trigger", "base_name", "owner", "date", "training"})
# Another number, list or object, with which the file is as sound as before, and says something else.
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
    """Facts that may come out besides the unchanged; None if the value is no damage at all.

    Args:
        place: where in `facts` the field is; None: nowhere.
    """
    if wrong.words in _OTHERS.get(field, ()) or (field == 0 and wrong.words == "0"):
        return None
    if place is None:
        return ()
    sound = (field in _FREE and wrong.words in TEXTS) or (field in ("alpha", "weight") and wrong.words in NUMBERS)
    empty = field in ("base_digest", "base_family", "origin") and wrong.words == "no text"
    return (edited(facts, place, wrong.value),) if sound or empty else ()
