"""Runs a stage until its time is over, with checkpoints, and goes back if a metric becomes NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from blocklora_jax.errors import UserError
from train.base.timed.clock import Clock, StageClock
from train.base.timed.stage import Data, Stage, Time, TimedState
from train.engine.checkpoint import Checkpoints
from train.engine.log import MetricsLog

SAVE_SECONDS, LOG_SECONDS = 60.0, 5.0
# How often a stage may go back to its last checkpoint. Each time its learning rate is halved.
_RETURNS = 3

Call = Callable[[TimedState, Data, Any, Time], tuple[TimedState, dict[str, Any]]]


def run_timed(
    stage: Stage,
    call: Call,
    state: TimedState,
    data: Data,
    frozen: Any,
    run_dir: Path,
    clock: Clock,
    share: float,
    save_seconds: float = SAVE_SECONDS,
    saved: Callable[[TimedState], object] = lambda state: None,
) -> TimedState:
    """The state when the time of the stage is over. A stage that has begun before goes on from its checkpoint.

    call: `stage.function()`, compiled or not. share: seconds that the stage may take. saved(state): called after each
    checkpoint but the last.

    Raises: UserError if the loss becomes NaN again and again.
    """
    checkpoints, own = Checkpoints(run_dir / "checkpoints"), clock.stage(stage.name, share)
    if checkpoints.latest_step() is not None:
        _, state = checkpoints.restore(state)
    run = _Run(stage, call, state, data, frozen, run_dir, own)
    with tqdm(total=100, desc=stage.name, unit="%", dynamic_ncols=True) as bar:
        while not run.is_over:
            run.advance()
            bar.update(int(100 * own.progress) - bar.n)
            if not run.is_over and run.seconds_since_save >= save_seconds:
                run.save(checkpoints)
                clock.save()
                saved(run.state)
    own.stop()
    run.save(checkpoints)
    clock.save()
    return run.state


class _Run:
    """The state of a stage that runs, and a copy of it to go back to."""

    def __init__(
        self, stage: Stage, call: Call, state: TimedState, data: Data, frozen: Any, run_dir: Path, own: StageClock
    ) -> None:
        self.state, self._good = state, jax.tree.map(jnp.copy, state)
        self._stage, self._call, self._data, self._frozen, self._own = stage, call, data, frozen, own
        # Also a stage whose time is over makes a call, unless it has been trained before.
        self.is_over = own.progress >= 1 and int(state.step) > 0
        self._log = MetricsLog(run_dir, int(state.step))
        self._factor, self._returns = 1.0, 0
        # Seconds of the last call. The first one may compile, so it tells nothing about the next.
        self._seconds, self._is_first = 0.0, True
        self._saved = self._logged = time.monotonic()
        self._logged_step = int(state.step)

    @property
    def seconds_since_save(self) -> float:
        return time.monotonic() - self._saved

    def advance(self) -> None:
        """One call. The last one is the one after which too little time is left for another; it ends at 1."""
        began, begun = time.monotonic(), self._own.progress
        part = self._seconds / self._own.share if self._own.share > 0 else 1.0
        is_last = begun + 1.5 * part >= 1
        end = 1.0 if is_last else begun + part
        times = Time(*(jnp.asarray(x, jnp.float32) for x in (begun, end, self._factor)))
        self.state, metrics = self._call(self.state, self._data, self._frozen, times)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._seconds, self._is_first = 0.0 if self._is_first else time.monotonic() - began, False
        if not all(map(math.isfinite, values.values())):
            self._go_back(values)
            return
        self.is_over = is_last
        if is_last or time.monotonic() - self._logged >= LOG_SECONDS:
            self._report(values)

    def _report(self, values: dict[str, float]) -> None:
        step, now = int(self.state.step), time.monotonic()
        per_second = (step - self._logged_step) / max(now - self._logged, 1e-9)
        self._log.write(step, {**values, "progress": self._own.progress, "steps_per_second": per_second})
        self._logged, self._logged_step = now, step

    def _go_back(self, values: dict[str, float]) -> None:
        self._returns += 1
        if self._returns > _RETURNS:
            wrong = ", ".join(name for name, value in values.items() if not math.isfinite(value))
            raise UserError(
                f"{self._stage.name}: {wrong} became NaN or infinite {self._returns} times: lower its learning rate"
            )
        self._factor /= 2
        self.state = jax.tree.map(jnp.copy, self._good)
        print(f"{self._stage.name}: back to step {int(self.state.step)} at half the learning rate", flush=True)

    def save(self, checkpoints: Checkpoints) -> None:
        """Save the state, and keep a copy to go back to."""
        checkpoints.save(int(self.state.step), self.state)
        self._good, self._saved = jax.tree.map(jnp.copy, self.state), time.monotonic()
