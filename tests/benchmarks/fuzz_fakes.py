"""A fake kind of input. Its reader behaves in every way that the fuzzer must notice. Workers import it by name."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path

from benchmarks.fuzz.trial import Case, Trial
from blocklora_jax.errors import UserError

NAME, SECONDS, MOST_MEMORY, QUICK = "fakes", 3.0, 200 << 20, 4


def prepare(folder: Path, seed: int) -> None:
    (folder / "input.txt").write_text("sound")


def list_cases(folder: Path, seed: int) -> list[Case]:
    return [Case(words, _make(call, **expected)) for words, (call, expected) in READERS.items()]


def _make(call, **expected):
    return lambda rng, scratch: Trial(call=call, accept=({"a": 1},), **expected)


def refuse():
    raise UserError("the file is damaged: copy it again")


def print_an_escape_sequence():
    sys.stderr.write("error: \x1b[31mred\n")
    raise SystemExit(2)


def print_two_lines():
    sys.stderr.write("error: one\nerror: two\n")
    raise SystemExit(2)


def print_a_box():
    sys.stderr.write("╭─ Parsing error ─╮\n│ no such flag    │\n╰─────────────────╯\n")
    raise SystemExit(2)


def print_an_unexpected_error():
    sys.stderr.write("error: unexpected error: KeyError; the trace is in trace.txt\n")
    raise SystemExit(1)


def warn_in_one_line():
    warnings.warn("be\ncareful", stacklevel=1)
    return {"a": 1}


def write_in_many_lines():
    os.write(2, b"one\ntwo\n")
    return {"a": 1}


# The keys are the verdict that a case must get, with words that tell cases of one verdict apart.
READERS = {
    "refused in one line": (refuse, {}),
    "refused by a usage box": (print_a_box, {}),
    "loaded unchanged": (lambda: {"a": 1}, {}),
    "loaded unchanged: with a warning": (warn_in_one_line, {}),
    "apart": (lambda: {"a": 2}, {"apart": lambda facts: facts["a"] == 2}),
    "loaded changed": (lambda: {"a": 2}, {}),
    "loaded changed: True for 1": (lambda: {"a": "True"}, {}),
    "loaded changed: an input is lost": (lambda: {"a": 1}, {"intact": lambda: "lost: ada.safetensors"}),
    "tracebacks": (lambda: 1 / 0, {}),
    "tracebacks: told in one line": (print_an_unexpected_error, {}),
    "hangs": (lambda: time.sleep(60), {}),
    "memory": (lambda: bytearray(b"x" * (300 << 20)) and {"a": 1}, {}),
    "memory: more than there is": (lambda: bytearray(1 << 45), {}),
    "memory: killed": (lambda: os.kill(os.getpid(), 9), {}),
    "unreadable output": (print_an_escape_sequence, {}),
    "unreadable output: two lines": (print_two_lines, {}),
    "unreadable output: a library's": (write_in_many_lines, {}),
    "good ones refused": (refuse, {"must_load": True}),
    # The last case, after everything that the others did to the workers.
    "loaded unchanged: at the end": (lambda: {"a": 1}, {}),
}
