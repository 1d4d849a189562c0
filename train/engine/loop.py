"""The loop that every training shares: steps, progress, metrics, checkpoints, signals, NaN."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from blocklora_jax.errors import UserError
from train.engine.checkpoint import Checkpoints
from train.engine.log import MetricsLog
from train.engine.platform import is_first_host
from train.engine.signals import CatchSignals


class Interrupted(SystemExit):
    """The run was stopped by a signal, after it had saved; the exit code is 128 + the signal's number."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how often. Steps count from 0; every `*_every` counts finished steps."""

    steps: int
    log_every: int = 10
    save_every: int = 200
    preview_every: int = 0
    resume: bool = False
    tensorboard: bool = False


def run_loop(
    config: LoopConfig,
    run_dir: Path,
    state: Any,
    step_fn: Callable[[Any, Any], tuple[Any, dict]],
    batch_at: Callable[[int], Any],
    preview: Callable[[int, Any], None] = lambda step, state: None,
    label: str = "train",
) -> Any:
    """Run `state, metrics = step_fn(state, batch_at(step))` to `config.steps` and return the last state.

    `batch_at` is a pure function of the step, so a resumed run continues bit for bit. SIGTERM and SIGINT save first.

    Raises:
        UserError: the loss is not finite, or the folder holds another run's checkpoints.
        Interrupted: after a signal.
    """
    checkpoints = Checkpoints(run_dir / "checkpoints")
    first = 0
    if checkpoints.latest_step() is not None:
        if not config.resume:
            raise UserError(f"{run_dir} already holds a run: continue it with --resume, or choose another --out")
        first, state = checkpoints.restore(state)
    log = MetricsLog(run_dir, first, config.tensorboard)
    shown = {"unit": "step", "dynamic_ncols": True, "mininterval": 1.0, "disable": not is_first_host()}
    bar = tqdm(total=config.steps, initial=first, desc=label, **shown)
    began, since = time.perf_counter(), first
    # The bar and the log end before an error is printed, whatever it is.
    with CatchSignals() as caught, closing(log), bar:
        if first and _preview_due(first, config):
            # The run may have ended between this step's checkpoint and its preview.
            preview(first, state)
        for step in range(first, config.steps):
            state, metrics = step_fn(state, batch_at(step))
            done = step + 1
            bar.update()
            due = _due(done, config.log_every, config.steps)
            if due:
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                _require_finite(values, done, run_dir)
                now = time.perf_counter()
                values["steps_per_second"] = (done - since) / (now - began)
                began, since = now, done
                log.write(done, values)
                bar.set_postfix({name: f"{values[name]:.4g}" for name in list(values)[:3]})
            stop = _agreed(caught.signal, due)
            if stop or _due(done, config.save_every, config.steps):
                _require_finite(jax.device_get(metrics), done, run_dir)
                checkpoints.save(done, state)
            if not stop and _preview_due(done, config):
                preview(done, state)
                began, since = time.perf_counter(), done
                # A preview takes long: who stops it should not wait for another step.
                if stop := _agreed(caught.signal, True):
                    checkpoints.save(done, state)
            if stop:
                bar.close()
                _say_stopped(stop, done)
                raise Interrupted(128 + stop)
    checkpoints.close()
    return state


def _agreed(signal_here: int, due: bool) -> int:
    """The signal to stop by, 0 for none; all hosts of a pod stop after the same step, one at which they wait anyway."""
    if jax.process_count() == 1:
        return signal_here
    return int(multihost_utils.process_allgather(np.int32(signal_here)).max()) if due else 0


def _say_stopped(number: int, step: int) -> None:
    if is_first_host():
        print(f"stopped by {signal.Signals(number).name} after step {step}; continue with --resume", flush=True)


def _preview_due(done: int, config: LoopConfig) -> bool:
    """Whether a picture is drawn after the step; that of the last step is drawn when the adapter is saved."""
    return config.preview_every > 0 and done < config.steps and done % config.preview_every == 0


def _due(done: int, every: int, total: int) -> bool:
    return done == total or (every > 0 and done % every == 0)


def _require_finite(metrics: dict, step: int, run_dir: Path) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{', '.join(bad)} became NaN or infinite by step {step}: lower the learning rates or use fp32; "
            f"the last good checkpoint is in {run_dir / 'checkpoints'}"
        )
