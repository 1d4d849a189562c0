"""The benchmarks of scale and serving: machines that are killed lose nothing, and what is counted is counted right."""

from __future__ import annotations

from benchmarks.scale import claiming, composing
from benchmarks.scale.kills import Killed, _judge, kill_machines
from benchmarks.scale.study import make_study
from benchmarks.serving.ours import measure


def test_three_machines_that_are_killed_at_random_train_every_concept_once(tmp_path):
    study = make_study(tmp_path / "study", concepts=4, steps=4)
    found = kill_machines(study, machines=3, kills=3)
    assert (found.concepts, found.lost, found.twice, found.different) == (4, 0, 0, 0)
    assert found.kills > 0


def test_lost_repeated_and_different_concepts_are_counted(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log.txt"
    for name, data in (("a", b"1"), ("b", b"other")):
        (out / name).mkdir(parents=True)
        (out / name / "adapter.safetensors").write_bytes(data)
    line = f"{out}/a/adapter.safetensors (<a> man)\n"
    log.write_text(f"step 1\n{line}{line}{out}/b/adapter.safetensors (<b> man)\n")
    found = _judge(3, {"a": b"1", "b": b"2", "c": b"3"}, out, [log], 1.0)
    assert found == Killed(kills=3, concepts=3, lost=1, twice=1, different=1, seconds=1.0)
    assert not found.is_good


def test_exchanges_leave_nothing_behind(tiny_sd):
    row = measure(tiny_sd, count=2, swaps=4)
    assert row["difference"] == 0
    assert row["alone_ms"] > 0


def test_writers_of_a_registry_get_slots_of_their_own(tmp_path):
    line = claiming.measure(tmp_path, concepts=50, writers=4)
    assert "4 processes at once: 0 failed, 4 claimed, 0 collisions" in line


def test_a_merge_says_its_time_and_memory(tiny_folder, tmp_path):
    [row] = composing.measure(str(tiny_folder), tmp_path, (2,))
    assert row["adapters"] == 2
    assert row["mib"] >= row["mib_before"] > 0
