"""The benchmark of accelerators: one failure costs only itself, the time is kept to, and every line is JSON."""

import json
import queue
import sys
import time

import pytest

from benchmarks.accelerator.budget import Budget
from benchmarks.accelerator.card import utilization
from benchmarks.accelerator.lines import Lines
from benchmarks.accelerator.process import Process
from benchmarks.accelerator.scheduler import Scheduler
from benchmarks.accelerator.summary import summarize
from benchmarks.accelerator.tasks import Task, list_tasks

# A process that prepares for some seconds, measures for some, and writes down when it measured.
CHILD = """
import json, os, sys, time
task = json.loads(sys.argv[1])
say = lambda event, **row: print(json.dumps({"event": event, "row": row}), flush=True)
time.sleep(task.get("prepare", 0))
if task.get("dies"): os._exit(3)
if task.get("fails"): say("error", error="out of memory"); sys.exit(1)
print("a library prints this", flush=True)
say("ready")
sys.stdin.readline()
began = time.monotonic()
time.sleep(task.get("measure", 0))
say("row", began=began, ended=time.monotonic())
"""


def _task(name, prepare=0.1, measure=0.1, gigabytes=1.0, side="jax", **settings):
    return Task(name, side, "test", prepare, measure, gigabytes, settings)


def _run(folder, tasks, seconds=30.0, parallel=3, gigabytes=10.0):
    lines = Lines(folder / "lines.jsonl")

    def start(task, said: queue.Queue):
        return Process(task, "tiny", said, folder, (sys.executable, "-c", CHILD))

    Scheduler(Budget(seconds), start, lines.write, parallel, gigabytes).run(tasks)
    written = [json.loads(line) for line in (folder / "lines.jsonl").read_text().splitlines()]
    assert written == lines.rows
    return {row["task"]: row for row in written}


def test_one_failure_costs_only_itself(tmp_path):
    rows = _run(tmp_path, [_task("dies", dies=True), _task("fails", fails=True), _task("works")])
    assert rows["dies"]["error"] == "the process ended with code 3; see its log"
    assert rows["fails"]["error"] == "out of memory"
    assert rows["works"]["ended"] and len(rows) == 3


def test_tasks_are_prepared_side_by_side_and_measured_alone(tmp_path):
    tasks = [Task(name, "jax", "test", 0.2, 0.3, 1.0, {"prepare": 0.2, "measure": 0.3}) for name in "abc"]
    spans = sorted((row["began"], row["ended"]) for row in _run(tmp_path, tasks).values())
    assert len(spans) == len(tasks)
    assert all(one[1] <= other[0] for one, other in zip(spans, spans[1:], strict=False))


def test_what_does_not_fit_into_the_time_is_skipped_and_what_is_too_slow_is_ended(tmp_path):
    tasks = [Task("slow", "jax", "test", 0.1, 0.1, 1.0, {"measure": 60}), _task("long", prepare=100.0)]
    began = time.monotonic()
    rows = _run(tmp_path, tasks, seconds=3.0)
    assert time.monotonic() - began < 6
    assert "s are left" in rows["long"]["skipped"]
    assert "still measuring after" in rows["slow"]["error"] or rows["slow"]["error"] == "no time is left"


def test_tasks_wait_for_memory(tmp_path):
    rows = _run(tmp_path, [_task("one", gigabytes=8.0), _task("two", gigabytes=8.0)])
    assert rows["two"]["began"] >= rows["one"]["ended"]


def test_what_is_expected_follows_what_was_seen():
    budget, task = Budget(100), _task("a", prepare=10.0, measure=2.0)
    assert budget.expected(task) == 12
    budget.learn(task, 20.0)
    assert budget.expected(_task("b", prepare=10.0, measure=2.0)) == 24
    assert budget.expected(_task("c", prepare=10.0, measure=2.0, side="torch")) == 12


def test_every_task_has_settings_of_its_own():
    tasks = list_tasks()
    assert len({task.name for task in tasks}) == len(tasks)
    # No task may need more than a card has.
    assert max(task.gigabytes for task in tasks) <= 70


def test_utilization_is_of_the_cards_peak():
    assert utilization("NVIDIA H100 80GB HBM3", 989e12 / 2, 1.0) == 0.5
    assert utilization("cpu", 1e9, 1.0) is None and utilization("NVIDIA H100", None, 1.0) is None


def test_the_summary_compares_both_sides():
    training = {"measured": "training", "model": "sd15", "batch": 4, "variant": "plain", "attention": "auto"}
    common = training | {"concepts": 1, "remat": False}
    rows = [
        common | {"side": "jax", "seconds": 0.1, "mib": {"peak": 5000}, "mfu": 0.5},
        common | {"side": "torch", "seconds": 0.2, "compiled": False, "mib": {"peak": 8000}},
        common | {"side": "torch", "seconds": 0.15, "compiled": True, "mib": {"peak": 8000}},
        common | {"side": "jax", "batch": 1, "seconds": 0.05},
        common | {"side": "jax", "batch": 1, "concepts": 8, "seconds": 0.2},
        common | {"side": "jax", "variant": "tokens", "seconds": 0.11},
        common | {"side": "jax", "variant": "layer", "seconds": 0.132},
        {"side": "jax", "measured": "attention", "error": "out of memory"},
    ]
    text = summarize(rows)
    assert "training sd15 b4: 10.00 steps/s, 2.00 x eager, 1.50 x compiled, 0.62 of its memory, MFU 50%" in text
    assert "8 concepts in one program: 2.00 x one after another" in text
    assert "erasure (layer): 1.20 x the time of a step" in text


@pytest.mark.parametrize("minutes", ["0", "-1"])
def test_a_budget_must_be_positive(minutes):
    from benchmarks.accelerator.__main__ import Options
    from blocklora_jax.errors import UserError

    with pytest.raises(UserError, match="--minutes must be above 0"):
        Options(minutes=float(minutes))


def test_the_tiny_form_measures_within_its_time(tmp_path, monkeypatch, capsys):
    from benchmarks.accelerator import __main__ as command

    monkeypatch.setattr(sys, "argv", ["x", "--minutes", "3", "--tiny", "--only", "attention", "--out", str(tmp_path)])
    command.main()
    rows = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert rows[0]["task"] == "start" and rows[-1]["task"] == "end"
    measured = [row for row in rows if row.get("measured") == "attention"]
    assert {row["form"] for row in measured} == {"chunked", "plain"}
    assert all(row["seconds"]["forward"] > 0 for row in measured)
    assert rows[-1]["at"] < 180
