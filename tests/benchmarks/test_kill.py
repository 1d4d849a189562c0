"""The kill benchmark notices lost, half-written and wrong files, and reports nothing for a safe writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kill.lines import new_lines
from benchmarks.kill.state import judge_finished, judge_killed, read_state
from benchmarks.kill.syscalls import Moment, parse_moments

ROOT = Path(__file__).parents[2]
BEFORE, AFTER = {"a": "old", "model/x": "1", "model/y": "1"}, {"a": "new", "b": "new", "model/x": "2", "model/y": "2"}


@pytest.mark.parametrize(
    ("now", "lost", "half_written"),
    [
        (BEFORE, [], []),
        (AFTER, [], []),
        ({**BEFORE, "a": "new", ".b.xyz": "ne"}, [], []),
        ({**BEFORE, "a": "ne"}, [], ["a"]),
        ({**BEFORE, "b": "ne"}, [], ["b"]),
        ({**BEFORE, "c": "?"}, [], ["c"]),
        ({"model/x": "1", "model/y": "1"}, ["a"], []),
        ({"a": "old"}, ["model/"], []),
        ({**BEFORE, "model/x": "2"}, [], ["model/"]),
        ({"a": "old", "model/x": "1"}, [], ["model/"]),
    ],
)
def test_files_that_a_kill_may_leave_are_not_reported_as_damage(now, lost, half_written):
    findings = judge_killed(BEFORE, AFTER, now, units=("model",))
    assert (findings.lost, findings.half_written) == (lost, half_written)


def test_a_final_state_that_differs_from_an_undisturbed_run_is_noticed():
    now = {**AFTER, "a": "other", ".x.part": "", ".x.part/old": "1", "registry.json.lock": ""}
    findings = judge_finished(AFTER, {name: digest for name, digest in now.items() if name != "b"})
    assert (findings.lost, findings.wrong, findings.leftovers) == (["b"], ["a"], [".x.part"])


def test_a_state_has_every_file_and_temporary_folders_without_files(tmp_path):
    (tmp_path / ".new.part").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_text("1")
    assert sorted(read_state(tmp_path)) == [".new.part", "model/x"]


def test_moments_are_the_calls_that_change_the_folder_counted_by_thread_and_kind():
    log = (
        '7 openat(AT_FDCWD, "/lib/a", O_RDONLY) = 3\n7 openat(AT_FDCWD, "/out/.x", O_RDWR|O_CREAT) = 3\n'
        '7 write(1</dev/null>, "") = 1\n8 write(3</out/.x>, "") = 1\n7 write(3</out/.x>, "" <unfinished ...>\n'
        '7 <... write resumed>) = 1\n7 openat(AT_FDCWD, "/out/y", O_RDONLY) = 4\n7 rename("/out/.x", "/out/x") = 0\n'
    )
    findings = [("openat", 2), ("write", 1), ("write", 2), ("rename", 1)]
    assert parse_moments(log, Path("/out")) == [Moment(*moment, i) for i, moment in enumerate(findings)]


def test_lines_of_an_undisturbed_run_and_progress_bars_do_not_count():
    text = "wrote 12 files\nada:  12%|# | 1/8 [00:02<00:17, 2.51s/step]\rerror: interrupted\n"
    assert new_lines(text, usual="wrote 3 files\n") == ["error: interrupted"]


# A program that kills itself at its n-th stage. n comes from a file, so that the restart can finish.
WRITER = """
import os, signal, sys
from pathlib import Path
folder, stages = Path(sys.argv[1]), Path(sys.argv[2])
left = int(stages.read_text())
def stage():
    global left
    left -= 1
    if left == 0:
        stages.write_text("0")
        os.kill(os.getpid(), signal.SIGKILL)
def unsafe():
    again = (folder / "begun").exists()
    (folder / "model").unlink(missing_ok=True)
    stage()
    (folder / "model").write_text("ne")
    stage()
    (folder / "begun").write_text("")
    (folder / "model").write_text("new, resumed" if again else "new")
    stage()
    (folder / "begun").unlink()
def safe():
    for old in folder.glob(".model.*"):
        old.unlink()
    new = folder / f".model.{os.getpid()}"
    new.write_text("ne")
    stage()
    new.write_text("new")
    stage()
    os.replace(new, folder / "model")
    stage()
globals()[sys.argv[3]]()
"""
HARNESS = """
import dataclasses, json, sys
from pathlib import Path
from benchmarks.kill.launch import Command
from benchmarks.kill.trial import Scenario, Trials
place, stages = Path(sys.argv[1]), Path(sys.argv[1]) / "stages"
sys.path.insert(0, str(place))
stages.write_text("0")
scenario = Scenario(
    name="toy",
    command=lambda folder: Command("writer", (str(folder), str(stages), sys.argv[2])),
    prepare=lambda folder: (folder / "model").write_text("old"),
)
trials = Trials(scenario, place / "trials")
for stage in (1, 2, 3):
    stages.write_text(str(stage))
    trials.kill_after(0.3)
print(json.dumps({**dataclasses.asdict(trials.counts), "good": trials.counts.is_good}))
"""


@pytest.mark.parametrize("kind", ["unsafe", "safe"])
def test_the_harness_finds_a_writer_that_is_not_safe(tmp_path, kind):
    (tmp_path / "writer.py").write_text(WRITER)
    # In a separate process, because the harness forks, and this process, in which JAX runs, must not fork.
    # The harness counts compiled programs, and other tests compile at the same time.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    ran = subprocess.run(
        [sys.executable, "-c", HARNESS, str(tmp_path), kind],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    findings = json.loads(ran.stdout)
    counts = [findings[name] for name in ("kills", "continued", "lost", "half_written", "wrong", "leftovers", "good")]
    # The three kills: after the removal, after the first half, and when both the old mark and the new model are there.
    assert counts == ([3, 3, 1, 2, 1, 0, False] if kind == "unsafe" else [3, 3, 0, 0, 0, 0, True])
