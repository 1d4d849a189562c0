"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import pytest

from blocklora_jax.errors import UserError
from train.engine.checkpoint import Checkpoints
from train.engine.checkpoint_seal import SealingHandler


def state_at(step: int) -> dict:
    return {"x": jnp.arange(64.0) + step, "key": jax.random.key(step)}


@pytest.fixture
def held(monkeypatch):
    """Saves wait before they get their name, until the event is set."""
    event, finalize = threading.Event(), SealingHandler.finalize

    def late(self, directory):
        assert event.wait(60)
        finalize(self, directory)

    monkeypatch.setattr(SealingHandler, "finalize", late)
    return event


def test_training_goes_on_while_a_state_is_written_and_may_give_its_arrays_away(tmp_path, held):
    checkpoints, state = Checkpoints(tmp_path, in_background=True), state_at(1)
    checkpoints.save(1, state)
    assert checkpoints.latest_step() is None
    step = jax.jit(lambda state: {"x": state["x"] * 0 - 1, "key": state["key"]}, donate_argnums=0)
    assert float(step(state)["x"].max()) == -1
    held.set()
    checkpoints.save(2, state_at(2))
    assert checkpoints.latest_step() in (1, 2)
    checkpoints.close()
    assert checkpoints.latest_step() == 2
    assert Checkpoints(tmp_path).restore(state_at(0))[0] == 2
    (tmp_path / "2").rename(tmp_path / "kept")
    saved = Checkpoints(tmp_path).restore(state_at(0))[1]
    assert jnp.array_equal(saved["x"], jnp.arange(64.0) + 1)


def test_the_end_of_a_run_waits_for_the_last_state_and_older_ones_go_after_it(tmp_path):
    with Checkpoints(tmp_path, in_background=True) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state_at(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    with pytest.raises(KeyError), Checkpoints(tmp_path, in_background=True) as checkpoints:
        checkpoints.save(4, state_at(4))
        raise KeyError
    assert Checkpoints(tmp_path).restore(state_at(0))[0] == 4


@pytest.mark.parametrize("at", ["the next save", "the end"])
def test_a_failure_is_told_once_and_leaves_the_older_checkpoint(tmp_path, monkeypatch, capfd, at):
    def full(self, directory):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, in_background=True)
    checkpoints.save(1, state_at(1))
    checkpoints.wait()
    with monkeypatch.context() as patched:
        patched.setattr(SealingHandler, "finalize", full)
        checkpoints.save(2, state_at(2))
        with pytest.raises(UserError, match="cannot save a checkpoint of step 2 in .*: No space left on device"):
            checkpoints.save(3, state_at(3)) if at == "the next save" else checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    checkpoints.save(3, state_at(3))
    checkpoints.close()
    assert Checkpoints(tmp_path).restore(state_at(0))[0] == 3
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_the_wait_is_bounded(tmp_path, held):
    checkpoints = Checkpoints(tmp_path, in_background=True)
    checkpoints.save(1, state_at(1))
    with pytest.raises(UserError, match="step 1 in .*: writing takes longer than 0 seconds"):
        checkpoints.wait(0.2)
    held.set()
