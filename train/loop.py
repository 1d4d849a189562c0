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
from tqdm import tqdm

from blocklora_jax.errors import UserError
from train.checkpoint import Checkpoints
from train.log import MetricsLog
from train.platform import is_first_host


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
    with _CatchSignals() as caught, closing(log), bar:
        for step in range(first, config.steps):
            state, metrics = step_fn(state, batch_at(step))
            done = step + 1
            bar.update()
            if _due(done, config.log_every, config.steps):
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                _require_finite(values, done, run_dir)
                now = time.perf_counter()
                values["steps_per_second"] = (done - since) / (now - began)
                began, since = now, done
                log.write(done, values)
                bar.set_postfix({name: f"{values[name]:.4g}" for name in list(values)[:3]})
            if caught.signal or _due(done, config.save_every, config.steps):
                _require_finite(jax.device_get(metrics), done, run_dir)
                checkpoints.save(done, state)
            if caught.signal:
                bar.close()
                print(
                    f"stopped by {signal.Signals(caught.signal).name} after step {done}; continue with --resume",
                    flush=True,
                )
                raise Interrupted(128 + caught.signal)
            if config.preview_every and done < config.steps and done % config.preview_every == 0:
                preview(done, state)
                began, since = time.perf_counter(), done
    checkpoints.close()
    return state


def _due(done: int, every: int, total: int) -> bool:
    return done == total or (every > 0 and done % every == 0)


def _require_finite(metrics: dict, step: int, run_dir: Path) -> None:
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{', '.join(bad)} became NaN or infinite by step {step}: lower the learning rates or use fp32; "
            f"the last good checkpoint is in {run_dir / 'checkpoints'}"
        )


class _CatchSignals:
    """Remembers SIGTERM and SIGINT instead of dying of them; a second one of the same kind is obeyed at once."""

    signal: int = 0

    def __enter__(self) -> _CatchSignals:
        stops = (signal.SIGTERM, signal.SIGINT)
        self._old: dict[int, Any] = {int(stop): signal.signal(stop, self._remember) for stop in stops}
        return self

    def _remember(self, number: int, frame: object) -> None:
        self.signal = number
        signal.signal(number, self._old[number])

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
