"""The fuzzer notices each bad outcome, and its cases do what their titles say."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fuzz_fakes import READERS

from benchmarks.fuzz import __main__ as fuzz
from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import edited, facts_of
from benchmarks.fuzz.misuse_named import read_calls
from benchmarks.fuzz.raw_safetensors import RawFile
from benchmarks.fuzz.report import failures, table
from benchmarks.fuzz.trial import BAD, Verdict
from benchmarks.fuzz.wrong_values import WRONG_VALUES, twice, with_value


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(results, folder of kept inputs) of the fake cases, run in workers."""
    folder = tmp_path_factory.mktemp("fuzz")
    here = str(Path(__file__).parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        args = argparse.Namespace(seed=0, quick=False, out=folder / "kept", jobs=2)
        return fuzz.run_kind("fuzz_fakes", folder, args), folder / "kept"


def test_every_outcome_gets_its_column(run):
    assert {r.title: str(r.verdict) for r in run[0]} == {words: words.split(":")[0] for words in READERS}


def test_only_the_inputs_of_failures_are_kept(run):
    expected = {f"fakes-{i}" for i, words in enumerate(READERS) if words.split(":")[0] in BAD}
    assert {path.name for path in run[1].iterdir()} == expected


def test_the_table_counts_outcomes_and_any_bad_one_fails_the_run(run, monkeypatch, capsys):
    rows = table({"fakes": run[0]}).splitlines()
    counts = dict(zip(rows[0].split("|")[1:-1], rows[2].split("|")[1:-1], strict=True))
    counts = {name.strip(): count.strip() for name, count in counts.items()}
    assert counts["cases"] == str(len(READERS))
    assert (counts["tracebacks"], counts["hangs"], counts["loaded changed"], counts["memory"]) == ("2", "1", "3", "3")
    for result in run[0]:
        monkeypatch.setattr(fuzz, "run_kind", lambda *args, result=result: [result])
        assert fuzz.main(["--only", "pictures"]) == int(result.verdict in BAD), result
    assert len(failures(run[0])) == 13
    capsys.readouterr()


def test_a_quick_sample_is_fixed_and_evenly_spread():
    assert fuzz.sample(10, 3) == [0, 3, 6]
    assert fuzz.sample(3, 10) == [0, 1, 2]


@pytest.mark.parametrize("name", [*SAME_LENGTH, *OTHER_LENGTH])
def test_damage_changes_the_bytes_and_is_reproducible(name):
    data = np.random.default_rng(0).bytes(3000)
    one, other = (damage(name, data, np.random.default_rng(5)) for _ in range(2))
    assert one == other != data
    assert (len(one) == len(data)) == (name in SAME_LENGTH)


def test_a_file_taken_apart_and_put_together_is_the_same():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}
    raw = RawFile.make(arrays, {"format": "pt"})
    again = RawFile.read(raw.pack())
    assert again == raw
    np.testing.assert_array_equal(again.tensors[0].array, arrays["a"])
    assert np.isnan(raw.replaced(0, lambda t: t.filled(np.nan, 4)).tensors[0].array[1, 1])


def test_facts_differ_for_different_values_that_are_equal_in_python():
    assert facts_of({"a": True}) != facts_of({"a": 1})
    assert facts_of({"a": 3.0}) == facts_of({"a": 3})
    assert facts_of(np.array([0.0], np.float32)) != facts_of(np.array([-0.0], np.float32))
    assert "not finite" in facts_of(np.array([1.0, np.inf], np.float32))
    assert edited({"a": [{"b": 1}]}, ("a", 0, "b"), True) == {"a": [{"b": "True"}]}


def test_wrong_values_are_put_at_their_path():
    wrong = {value.words: value for value in WRONG_VALUES}
    assert json.loads(with_value({"a": {"b": 1}}, ("a", "b"), wrong["true"].text)) == {"a": {"b": True}}
    assert json.loads(twice({"a": 1}, "a", "2", first=False), object_pairs_hook=list) == [("a", 1), ("a", 2)]


def test_calls_are_split_into_words_as_by_a_shell():
    calls = read_calls("must_refuse.txt")
    assert len(calls) > 150
    assert ["merge", "\x1b[31m"] in calls
    assert any(call[0] == "train.concept" and "<>" in call for call in calls)


def test_verdicts_that_fail_are_those_that_must_be_zero():
    assert {Verdict.CHANGED, Verdict.TRACEBACK, Verdict.HANG, Verdict.MEMORY} <= set(BAD)
