"""The benchmark of a library makes files of every sort, and measures a process's memory."""

from __future__ import annotations

import pytest

from benchmarks.library import __main__ as command
from benchmarks.library.make import make_folder, readable, specimens
from benchmarks.library.step import Step, run_step
from blocklora_jax.errors import UserError
from blocklora_jax.library.library import open_library, usable
from blocklora_jax.testing.tiny_model import tiny_params


def test_every_sort_is_read_or_named(tmp_path):
    sorts, wrong = readable(tiny_params())
    assert {str(each) for each in sorts} | wrong.keys() == {str(each) for each in specimens()}
    assert {each.dialect for each in sorts} == {each.dialect for each in specimens()}
    broken = make_folder(tmp_path, len(sorts), tiny_params(), sorts)
    good, reasons = usable(open_library(tmp_path)[1])
    assert (len(good), len(reasons)) == (len(sorts), broken)
    assert all(entry.trigger and entry.kind for entry in good)


def test_a_step_has_its_seconds_and_memory():
    step = run_step("help", ["merge", "library"])
    assert (step.code, step.output[:9]) == (0, "A library")
    assert 0 < step.anonymous < step.peak < 4000
    assert step.cpu > 0
    assert 0 < step.seconds < 60


def test_a_step_that_fails_ends_the_benchmark(monkeypatch, tmp_path):
    def fails(*args):
        yield Step("scan", 1.0, 1.0, 1.0, 1.0, 3, "no")

    monkeypatch.setattr(command, "steps", fails)
    with pytest.raises(UserError, match="scan failed with exit code 3: no"):
        command.measure(command.Options(quick=True), tmp_path)
