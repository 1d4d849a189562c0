"""Decides in which column of the table a trial is counted."""

from __future__ import annotations

import re

from benchmarks.fuzz.capture import Ended
from benchmarks.fuzz.trial import Matching, Trial, Verdict

# Characters that move the cursor, colour the terminal or change the direction of writing, without tabs and line ends.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# These count as failures even in the runner's own message: no damaged file and no number may need so much memory.
_NO_MEMORY = ("MemoryError", "not enough memory", "RESOURCE_EXHAUSTED")
_TRACES = ("Traceback (most recent call last)", "unexpected error")
_BAR = re.compile(r"^[^:]{0,40}:? *\d+%\|.*\|")
# Lines that are no errors: warnings, that a program compiles, how many pictures are trained, and empty ones.
_TOLD = re.compile(r"warning: |compiling |<\w+>: \d+ pictures?\b|\s*$")
_LONGEST = 8000  # characters of a line that somebody might still read
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|StatusLine|Read|TooLong)\b")


def judge(trial: Trial, ended: Ended, most_memory: int) -> tuple[Verdict, str]:
    """The verdict and a line that explains it. most_memory: the allowed growth, in bytes."""
    printed = ended.out + ended.err
    if any(words in printed for words in _NO_MEMORY) or ended.growth > most_memory:
        return Verdict.MEMORY, f"{ended.growth >> 20} MB more: {_last(printed)}"
    if any(trace in printed for trace in _TRACES):
        return Verdict.TRACEBACK, _trace(printed)
    if ended.altered:
        return Verdict.CHANGED, f"{ended.altered} (exit code {ended.code}: {_last(printed)})"
    if control := _CONTROL.search(_without_bars(printed)):
        return Verdict.NOISE, f"control character {control[0]!r} in {_last(printed)}"
    if any(len(line) > _LONGEST for line in ended.err.splitlines()):
        return Verdict.NOISE, f"a line of more than {_LONGEST} letters: {_last(ended.err)}"
    return _refused(trial, ended) if ended.code else _loaded(trial, ended)


def _refused(trial: Trial, ended: Ended) -> tuple[Verdict, str]:
    lines = _without_bars(ended.err).strip().splitlines()
    errors = [line for line in lines if not _TOLD.match(line)]
    # Commands that check many files print the problems as their result.
    is_report = ended.code == 1 and not errors and ended.out.strip()
    one_line = len(errors) == 1 and errors[0].startswith("error: ") and lines[-1] == errors[0]
    box = bool(errors) and errors[0].startswith(("╭", "usage:")) and ended.code == 2
    if not (is_report or one_line or box):
        return Verdict.NOISE, f"exit code {ended.code} with {len(errors)} lines on stderr: {' / '.join(errors)[:200]}"
    if trial.must_load:
        return Verdict.GOOD_REFUSED, _last(ended.err or ended.out)
    if box:
        return Verdict.BOX, " ".join(errors)[:200]
    return Verdict.REFUSED, _last(ended.err or ended.out)


def _loaded(trial: Trial, ended: Ended) -> tuple[Verdict, str]:
    lines = _without_bars(ended.err).strip().splitlines()
    if wrong := [line for line in lines if not _TOLD.match(line)]:
        return Verdict.NOISE, f"{len(lines)} lines on stderr: {' / '.join(wrong)[:200]}"
    if any(ended.facts == accepted for accepted in trial.accept):
        return Verdict.UNCHANGED, ""
    if trial.apart(ended.facts):
        return Verdict.APART, ""
    return Verdict.CHANGED, _difference(trial, ended)


def _difference(trial: Trial, ended: Ended) -> str:
    if not trial.accept:
        return f"accepted, must be refused; {_last(ended.out + ended.err)}"
    if isinstance(trial.accept[0], Matching):
        facts = ended.facts.get("info", ended.facts) if isinstance(ended.facts, dict) else ended.facts
        return f"not what it may be: {str(facts)[:200]}"
    places = list(_places(trial.accept[0], ended.facts, ""))
    return f"differs at {'; '.join(places[:3])}{f' and {len(places) - 3} more places' if len(places) > 3 else ''}"


def _places(one, other, path: str):
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _places(one.get(key, "nothing"), other.get(key, "nothing"), f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _places(*pair, f"{path}/{index}")
    elif one != other:
        yield f"{path}: {str(one)[:60]} -> {str(other)[:60]}"


def _trace(printed: str) -> str:
    """The exception and the last line of our own code in the traceback."""
    lines = printed.strip().splitlines()
    if net := [line for line in lines if "unexpected error" in line]:
        return net[-1][:300]
    places = [line.strip() for line in lines if 'File "' in line and "/benchmarks/fuzz/" not in line]
    ours = [line for line in places if re.search(r"/(blocklora_jax|merge|train)/", line)]
    place = re.sub(
        r'File ".*/((blocklora_jax|merge|train)/[^"]+)", line (\d+), in (.*)', r"\1:\3 \4", (ours or [""])[-1]
    )
    last = next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])
    return f"{last[:200]} [{place}]"


def _without_bars(text: str) -> str:
    return (
        "\n".join(line for line in text.replace("\r", "\n").splitlines() if not _BAR.search(line))
        if "|" in text
        else text
    )


def _last(text: str) -> str:
    lines = _without_bars(text).strip().splitlines()
    return lines[-1][:300] if lines else "nothing printed"
