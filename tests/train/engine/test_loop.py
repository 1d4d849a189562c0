"""The loop: resuming, signals, NaN, metrics. The step is a small fake, the loop is the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.errors import UserError
from train.engine.checkpoint import Checkpoints
from train.engine.loop import Interrupted, LoopConfig, run_loop

ROOT = Path(__file__).parents[3]


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


def run(folder: Path, steps: int = 7, step=toy_step, batches=batch_at, preview=lambda step, state: None, **config):
    settings = {"steps": steps, "log_every": 1, "save_every": 3, **config}
    return run_loop(LoopConfig(**settings), folder, new_state(), step, batches, preview)


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


def test_metrics_are_written_at_their_interval_and_at_the_end(tmp_path):
    run(tmp_path, steps=7, log_every=3)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert all(set(line) == {"step", "loss", "steps_per_second"} for line in lines)


def test_previews_are_drawn_at_their_interval_but_not_after_the_last_step(tmp_path):
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
def test_a_signal_within_the_process_ends_the_run_after_saving(tmp_path, number, capsys):
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


def kill_within(name: str, monkeypatch):
    """The next call of `Checkpoints.save` or of a preview is interrupted by a signal."""
    inner, calls = Checkpoints.save, []

    def save(self, step, state):
        inner(self, step, state)
        calls.append(step)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, name, save)
    return calls


def test_a_signal_during_a_save_stops_after_it(tmp_path, monkeypatch, capsys):
    calls = kill_within("save", monkeypatch)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", save_every=2)
    # That step was already being saved, so the loop makes one more step and saves it.
    assert (calls, Checkpoints(tmp_path / "parts" / "checkpoints").latest_step()) in [([2], 2), ([2, 3], 3)]
    assert "continue with --resume" in capsys.readouterr().out
    assert_same(run(tmp_path / "parts", resume=True), run(tmp_path / "whole"))


def test_a_signal_during_a_preview_stops_after_it_without_another_step(tmp_path):
    config = LoopConfig(steps=7, preview_every=2, save_every=100)
    with pytest.raises(Interrupted):
        run_loop(
            config, tmp_path / "parts", new_state(), toy_step, batch_at,
            lambda step, state: os.kill(os.getpid(), signal.SIGINT),
        )  # fmt: skip
    assert Checkpoints(tmp_path / "parts" / "checkpoints").latest_step() == 2
    assert_same(run(tmp_path / "parts", resume=True), run(tmp_path / "whole"))


@pytest.fixture
def interruptible():
    """Handle SIGINT as at a terminal, because a test run in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_of_either_kind_is_obeyed_at_once(tmp_path, numbers, interruptible):
    def batches(step: int):
        for number in numbers if step == 3 else ():
            os.kill(os.getpid(), number)
            time.sleep(0)
        return batch_at(step)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batches=batches, save_every=100)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert Checkpoints(tmp_path / "checkpoints").latest_step() is None


def test_the_loop_runs_in_another_thread_too(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path / "parts")))
    thread.start()
    thread.join()
    assert_same(found[0], run(tmp_path / "whole"))


JUNK = [
    b"5",
    b"[]",
    b"null",
    b'{"step": "x"}',
    b'{"step": true}',
    b'{"step": NaN}',
    b'{"loss": 1}',
    b"\xff\x00\xfe",
    b"",
    b"[" * 3000,
    b'{"step": 2, "lo',
]


def test_malformed_lines_of_metrics_are_ignored_and_no_valid_line_is_lost(tmp_path):
    with pytest.raises(Crash):
        run(tmp_path, batches=crash_at(5))
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    good = b"\n".join(lines[:3])
    path.write_bytes(b"\n".join([*JUNK, lines[0], *JUNK, lines[1], *JUNK, *lines[2:]]))
    run(tmp_path, resume=True)
    assert path.read_bytes().startswith(good + b"\n")
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_full_disk_under_the_metrics_is_one_line(tmp_path, monkeypatch):
    class Full:
        def __init__(self, *args):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.engine.log.open", Full, raising=False)
    with pytest.raises(
        UserError, match=r"cannot write .*metrics\.jsonl: No space left on device; continue with --resume"
    ):
        run(tmp_path)


BUSY = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loop import LoopConfig, new_state, run_loop
from blocklora_jax.command_line.runner import run
def busy(step):
    print("busy", flush=True)
    # This takes as long as a compilation, and does not react to signals either.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
run(lambda: run_loop(LoopConfig(steps=9), Path(sys.argv[1]), new_state(), lambda *args: 0, busy))
"""


def test_signals_are_answered_within_compiled_code_too(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", BUSY, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGINT)
        heard = ""
        while "once more to stop at once" not in heard:
            heard += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_loop import LoopConfig, batch_at, new_state, run_loop, toy_step
from blocklora_jax.command_line.runner import run
def slow(step):
    print("step", step, flush=True)
    time.sleep(0.05)
    return batch_at(step)
config = LoopConfig(steps=100000, save_every=100000)
run(lambda: run_loop(config, Path(sys.argv[1]), new_state(), toy_step, slow))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_saves_first_and_its_exit_code_names_the_signal(tmp_path, number, code):
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


def test_a_preview_that_a_crash_prevented_is_drawn_on_resuming(tmp_path):
    drawn = []

    def crash(step, state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, preview=crash, preview_every=4, save_every=4)
    run(tmp_path, preview=lambda step, state: drawn.append(step), preview_every=4, save_every=4, resume=True)
    assert drawn[0] == 4
