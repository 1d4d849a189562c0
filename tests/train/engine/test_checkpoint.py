"""Checkpoints: whatever is damaged, the state that was saved is restored, or the one before it."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_loop import assert_same, new_state, run

from blocklora_jax.errors import UserError
from train.engine import checkpoint
from train.engine.checkpoint import Checkpoints, _without_empty

STEPS = (2, 4)


def state_at(step: int) -> dict:
    return new_state() | {"step": jnp.int32(step), "x": jnp.linspace(step, step + 1, 5)}


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "checkpoints"
    for step in STEPS:
        Checkpoints(folder).save(step, state_at(step))
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "checkpoints"))


@pytest.fixture
def nothing_is_printed(capfd):
    """No traceback and no line of a library's log is printed, not even when objects that it left are deleted."""
    yield
    gc.collect()
    assert capfd.readouterr() == ("", "")


def flip(at: float, bit: int):
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[min(int(at * len(data)), len(data) - 1)] ^= 1 << bit
        path.write_bytes(data)

    return damage


DAMAGE = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    **{f"bit {bit} at {at}": flip(at, bit) for at, bit in ((0, 0), (0.2, 5), (0.4, 7), (0.6, 1), (0.8, 2), (1, 3))},
}


@pytest.mark.usefixtures("nothing_is_printed")
@pytest.mark.parametrize("kind", DAMAGE)
def test_any_damaged_file_gives_the_state_that_was_saved_or_the_one_before(original, tmp_path, kind):
    files = sorted(path.relative_to(original) for path in (original / "4").rglob("*") if path.is_file())
    assert len(files) > 8
    fallbacks = 0
    for i, file in enumerate(files):
        folder = Path(shutil.copytree(original, tmp_path / str(i)))
        DAMAGE[kind](folder / file)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step, state = Checkpoints(folder).restore(new_state())
        assert_same(state, state_at(step))
        said = [str(each.message) for each in said]
        aside = folder / "damaged-4"
        if step == 2:
            fallbacks += 1
            assert len(said) == 1, said
            assert said[0].startswith("the checkpoint of step 4 is damaged (")
            assert said[0].endswith(f"): it is now {aside}, and training goes on from step 2")
            assert "\n" not in said[0]
            assert len(said[0]) - 2 * len(str(folder)) < 400
            assert {path.name for path in folder.iterdir()} == {"2", "damaged-4"}
        else:
            assert (said, aside.exists()) == ([], False)
    assert fallbacks >= 3


def test_a_run_continues_from_the_checkpoint_before_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", steps=8)
    run(tmp_path / "parts", steps=6)
    folder = tmp_path / "parts" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"3", "6"}
    for path in (folder / "6").rglob("d/*"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="the checkpoint of step 6 is damaged") as said:
        assert_same(run(tmp_path / "parts", steps=8, resume=True), whole)
    assert len(said) == 1
    # The step was saved again, and the damaged checkpoint was kept.
    assert {path.name for path in folder.iterdir()} == {"6", "8", "damaged-6"}
    losses = [
        [(m["step"], m["loss"]) for m in map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("nothing_is_printed")
def test_if_all_are_damaged_none_is_moved_and_the_error_says_what_to_do(folder):
    for step in STEPS:
        shutil.rmtree(folder / str(step) / "default" / "d")
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(step 4: .*; step 2: .*\): put a copy"):
        Checkpoints(folder).restore(new_state())
    assert sorted(folder.rglob("*")) == before


def test_a_second_damaged_checkpoint_of_a_step_gets_a_number(folder):
    (folder / "damaged-4").mkdir()
    (folder / "damaged-4-1").write_text("")
    (folder / "4" / "default" / "_sharding").unlink()
    with pytest.warns(UserWarning, match=r"its file default/_sharding is missing\): it is now .*/damaged-4-2,"):
        assert Checkpoints(folder).restore(new_state())[0] == 2
    assert (folder / "damaged-4-2" / "default").is_dir()


def stray_folders(folder: Path) -> None:
    """Add files and folders that people may leave there."""
    shutil.copytree(folder / "4", folder / "400.bak")
    shutil.copytree(folder / "4", folder / "damaged-400")
    for name in ("old", "999", "٣", "007", "-5", "1e3"):
        (folder / name).mkdir()
    (folder / "998").mkdir()
    (folder / "998" / "notes.txt").write_text("mine")
    (folder / "997").write_text("a file")
    (folder / "12345678901234567890123").mkdir()


@pytest.mark.usefixtures("nothing_is_printed")
def test_stray_files_and_folders_are_ignored_and_kept(folder):
    stray_folders(folder)
    before = {path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("2", "4")}
    checkpoints = Checkpoints(folder)
    step, state = checkpoints.restore(new_state())
    assert step == checkpoints.latest_step() == 4
    assert_same(state, state_at(4))
    for step in (6, 999, 1000):
        checkpoints.save(step, state_at(step))
    assert (folder / "damaged-999").is_dir()
    assert before - {folder / "999"} <= set(folder.rglob("*"))
    assert Checkpoints(folder).restore(new_state())[0] == 1000
    assert not (folder / "6").exists()


def test_half_written_checkpoints_of_a_killed_process_are_removed_at_the_next_save(folder):
    shutil.copytree(folder / "4", folder / "6.orbax-checkpoint-tmp")
    shutil.copytree(folder / "4", folder / ".dropped-1")
    shutil.copytree(folder / "4", folder / "my.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore(new_state())[0] == 4
    checkpoints.save(6, state_at(6))
    assert {path.name for path in folder.iterdir()} == {"4", "6", "my.orbax-checkpoint-tmp"}


def test_a_copy_of_another_steps_checkpoint_is_not_accepted(folder):
    shutil.copytree(folder / "2", folder / "9")
    with pytest.warns(UserWarning, match=r"step 9 is damaged \(it is a copy of the checkpoint of step 2\)"):
        assert Checkpoints(folder).restore(new_state())[0] == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"x": jnp.zeros(6)},
        {"x": jnp.zeros(5, jnp.bfloat16)},
        {"more": jnp.zeros(1)},
        {"key": jax.random.key(0, impl="rbg")},
    ],
    ids=["shape", "dtype", "another leaf", "another kind of key"],
)
def test_a_state_that_does_not_fit_is_not_reported_as_damaged(folder, changes):
    with pytest.raises(UserError, match=r"step 4 .* does not fit this configuration"):
        Checkpoints(folder).restore(new_state() | changes)
    assert {path.name for path in folder.iterdir()} == {"2", "4"}


@pytest.fixture
def without_digest(tmp_path):
    """Checkpoints as earlier versions wrote them."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    manager = ocp.CheckpointManager(tmp_path / "old", options=ocp.CheckpointManagerOptions(max_to_keep=2))
    for step in STEPS:
        manager.save(step, args=ocp.args.StandardSave(_without_empty(state_at(step))))
    manager.close()
    return tmp_path / "old"


def test_checkpoints_of_earlier_versions_are_restored(without_digest):
    step, state = Checkpoints(without_digest).restore(new_state())
    assert step == 4
    assert_same(state, state_at(4))
    with pytest.raises(UserError, match="does not fit this configuration"):
        Checkpoints(without_digest).restore(new_state() | {"x": jnp.zeros(6)})
    # The newest checkpoint is by this version, the one before by an earlier version.
    Checkpoints(without_digest).save(6, state_at(6))
    assert {path.name for path in without_digest.iterdir()} == {"4", "6"}
    (without_digest / "6" / "default" / "manifest.ocdbt").unlink()
    with pytest.warns(UserWarning, match="its file default/manifest.ocdbt is missing"):
        step, state = Checkpoints(without_digest).restore(new_state())
    assert step == 4
    assert_same(state, state_at(4))


def test_states_of_several_kinds_are_restored(tmp_path):
    state = {
        "a": [np.float32(1.5), jnp.zeros((2, 0))],
        "b": (jnp.arange(3, dtype=jnp.uint8), None),
        "c": jnp.bool_(True),
    }
    state = jax.tree.map(jnp.asarray, state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, state)
    step, restored = checkpoints.restore(state)
    assert step == 0
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


FULL = {
    "orbax": ValueError(
        'RESOURCE_EXHAUSTED: Error writing "d/5": [OS error 28: ENOSPC No space left on device]\n' + "x" * 999
    ),
    "system": OSError(28, "No space left on device"),
}


@pytest.mark.usefixtures("nothing_is_printed")
@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_a_full_disk_is_one_line_and_leaves_the_older_checkpoints(folder, monkeypatch, error):
    def refuse(self, directory, *args, **kwargs):
        temporary = Path(f"{directory}.orbax-checkpoint-tmp")
        (temporary / "default").mkdir(parents=True)
        (temporary / "default" / "half").write_text("half")
        raise error

    checkpoints = Checkpoints(folder)
    monkeypatch.setattr(ocp.Checkpointer, "save", refuse)
    with pytest.raises(UserError) as told:
        checkpoints.save(6, state_at(6))
    message = str(told.value)
    assert message.startswith(f"cannot save a checkpoint of step 6 in {folder}: No space left on device; make room")
    assert "\n" not in message
    # Half-written files are removed, because they would keep the disk full.
    assert {path.name for path in folder.iterdir()} == {"2", "4"}
    assert checkpoint.Checkpoints(folder).restore(new_state())[0] == 4


def test_half_deleted_checkpoints_of_a_killed_process_are_removed_on_resuming(folder):
    shutil.copytree(folder / "2", folder / ".dropped-2")
    (folder / "6.orbax-checkpoint-tmp-1").mkdir()
    (folder / "mine").mkdir()
    assert Checkpoints(folder).restore(new_state())[0] == 4
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4", "mine"]
