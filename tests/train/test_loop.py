"""The loop: resuming, signals, NaN, metrics. The step is a toy, the loop is the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.errors import UserError
from train.checkpoint import Checkpoints
from train.loop import Interrupted, LoopConfig, run_loop

ROOT = Path(__file__).parents[2]


def new_state() -> dict:
    return {
        "step": jnp.int32(0),
        "key": jax.random.key(0),
        "x": jnp.linspace(0, 1, 5),
        "half": jnp.ones(2, jnp.bfloat16),
        "empty": jnp.zeros((0, 3)),
    }


@jax.jit
def toy_step(state, batch):
    noise = jax.random.normal(jax.random.fold_in(state["key"], state["step"]), state["x"].shape)
    x = jnp.sin(state["x"] * 1.7 + noise * batch)
    return {**state, "step": state["step"] + 1, "x": x, "half": state["half"] * 1.01}, {"loss": x.mean()}


def batch_at(step: int) -> np.ndarray:
    return np.random.default_rng((1, step)).random(5, np.float32)


def run(folder: Path, steps: int = 7, step=toy_step, batches=batch_at, **config):
    settings = {"steps": steps, "log_every": 1, "save_every": 3, **config}
    return run_loop(LoopConfig(**settings), folder, new_state(), step, batches)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(one, other) -> None:
    as_data = {name: jax.random.key_data(x) if name == "key" else x for name, x in other.items()}
    for name, value in one.items():
        value = jax.random.key_data(value) if name == "key" else value
        assert value.dtype == as_data[name].dtype
        np.testing.assert_array_equal(value, as_data[name])


class Crash(Exception):
    pass


def crash_at(step: int):
    def batches(index: int):
        if index == step:
            raise Crash
        return batch_at(index)

    return batches


@pytest.mark.parametrize("crash", [4, 6])
def test_a_run_resumed_after_a_crash_equals_an_uninterrupted_one_bit_for_bit(tmp_path, crash):
    whole = run(tmp_path / "whole")
    with pytest.raises(Crash):
        run(tmp_path / "parts", batches=crash_at(crash))
    assert_same(run(tmp_path / "parts", resume=True), whole)
    logs = [[(m["step"], m["loss"]) for m in metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [step for step, _ in logs[0]] == [1, 2, 3, 4, 5, 6, 7]


def test_resuming_a_finished_run_does_nothing(tmp_path):
    whole = run(tmp_path)
    assert_same(run(tmp_path, resume=True, batches=crash_at(0)), whole)


def test_a_folder_with_checkpoints_is_not_overwritten(tmp_path):
    run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        run(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_state_of_another_shape_cannot_be_resumed(tmp_path):
    run(tmp_path)
    state = new_state() | {"x": jnp.zeros(6)}
    with pytest.raises(UserError, match="does not fit this configuration"):
        run_loop(LoopConfig(steps=9, resume=True), tmp_path, state, toy_step, batch_at)


def test_metrics_are_written_every_so_often_and_at_the_end(tmp_path):
    run(tmp_path, steps=7, log_every=3)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert all(set(line) == {"step", "loss", "steps_per_second"} for line in lines)


def test_previews_come_in_time_but_not_after_the_last_step(tmp_path):
    seen = []
    config = LoopConfig(steps=6, preview_every=2)
    run_loop(
        config, tmp_path, new_state(), toy_step, batch_at, lambda step, state: seen.append((step, int(state["step"])))
    )
    assert seen == [(2, 2), (4, 4)]


def test_a_line_cut_short_by_a_crash_is_written_again(tmp_path):
    with pytest.raises(Crash):
        run(tmp_path, batches=crash_at(5))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    run(tmp_path, resume=True)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("log_every", [1, 100])
def test_nan_stops_with_a_message_and_the_last_good_checkpoint_stays(tmp_path, log_every):
    def to_nan(state, batch):
        state, values = toy_step(state, batch)
        bad = int(state["step"]) > 4
        return {**state, "x": state["x"] * jnp.nan if bad else state["x"]}, {
            "loss": values["loss"] * (jnp.nan if bad else 1)
        }

    with pytest.raises(UserError, match=r"loss became NaN or infinite by step [56].*lower the learning rates"):
        run(tmp_path, step=to_nan, log_every=log_every)
    step, state = Checkpoints(tmp_path / "checkpoints").restore(new_state())
    assert step == 3
    assert np.isfinite(state["x"]).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first_within_the_process(tmp_path, number, capsys):
    def batches(step: int):
        if step == 3:
            os.kill(os.getpid(), number)
        return batch_at(step)

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop:
        run(tmp_path / "parts", batches=batches, save_every=100)
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) is handler
    assert "after step 4; continue with --resume" in capsys.readouterr().out
    assert_same(run(tmp_path / "parts", resume=True), run(tmp_path / "whole"))


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loop import LoopConfig, batch_at, new_state, run_loop, toy_step
from blocklora_jax.command import run
def slow(step):
    print("step", step, flush=True)
    time.sleep(0.05)
    return batch_at(step)
config = LoopConfig(steps=100000, save_every=100000)
run(lambda: run_loop(config, Path(sys.argv[1]), new_state(), toy_step, slow))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_process_that_is_stopped_saves_first_and_says_so_in_its_exit_code(tmp_path, number, code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line == "step 3\n":
                process.send_signal(number)
                break
        output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "continue with --resume" in output
    assert "Traceback" not in errors
    step, state = Checkpoints(tmp_path / "checkpoints").restore(new_state())
    assert step == int(state["step"]) >= 4
