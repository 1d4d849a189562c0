"""The loop that every training uses: steps, metrics, checkpoints, previews, signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from blocklora_jax.command_line.compile_notice import compiling_is_announced
from blocklora_jax.errors import UserError
from train.engine.checkpoint import Checkpoints
from train.engine.followers.follower import Follower
from train.engine.platform import is_first_host
from train.engine.progress import Progress, require_finite
from train.engine.signals import CatchSignals
from train.engine.stop import requested_signal


class Interrupted(SystemExit):
    """A signal stopped the run after it had saved its state. The exit code is 128 + the signal's number."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The number of steps, and how often things are written. Each `*_every` is a number of finished steps."""

    steps: int
    log_every: int = 10
    save_every: int = 200
    preview_every: int = 0
    resume: bool = False


def run_loop(
    config: LoopConfig,
    run_dir: Path,
    state: Any,
    step_fn: Callable[[Any, Any], tuple[Any, dict]],
    batch_at: Callable[[int], Any],
    preview: Callable[[int, Any], None] = lambda step, state: None,
    label: str = "train",
    to_save: Callable[[Any], Any] = lambda state: state,
    from_saved: Callable[[Any], Any] = lambda state: state,
    followers: Sequence[Follower] = (),
) -> Any:
    """Run `state, metrics = step_fn(state, batch_at(step))` for `config.steps` steps and return the last state.

    Steps are numbered from 0. `batch_at` must be a pure function of the step, so that a resumed run continues bit for
    bit. After SIGTERM, SIGINT or a request to stop (see `train.engine.stop`) the state is saved before the loop ends.
    Checkpoints hold `to_save(state)`, and `from_saved` is its inverse. `followers` are told the metrics, and are closed
    by the caller.

    Raises:
        UserError: the loss is not finite, or the folder holds another run's checkpoints.
        Interrupted: after a signal.
    """
    checkpoints = Checkpoints(run_dir / "checkpoints", in_background=True)
    if checkpoints.latest_step() is None:
        first = 0
    else:
        first, saved = _restore(checkpoints, to_save(state), config.resume, run_dir)
        state = from_saved(saved)
    # With these blocks the bar and the log end before any error is printed.
    with CatchSignals() as caught, Progress(run_dir, first, config.steps, label, followers) as progress, checkpoints:
        if first and _preview_due(first, config):
            # The earlier run may have ended between this step's checkpoint and its preview.
            preview(first, state)
        for done in range(first + 1, config.steps + 1):
            batch = batch_at(done - 1)
            # Only the first step of a process is compiled.
            with compiling_is_announced("the training step") if done == first + 1 else nullcontext():
                state, metrics = step_fn(state, batch)
            progress.advance()
            if is_logged := _due(done, config.log_every, config.steps):
                progress.report(done, metrics)
            stop = _agreed(caught.signal or requested_signal(), is_logged)
            if stop or _due(done, config.save_every, config.steps):
                require_finite(jax.device_get(metrics), done, run_dir)
                checkpoints.save(done, to_save(state))
            if not stop and _preview_due(done, config):
                preview(done, state)
                progress.restart_clock(done)
                # A preview takes long. After a signal during it, no further step is made.
                if stop := _agreed(caught.signal or requested_signal(), True):
                    checkpoints.save(done, to_save(state))
            if stop:
                checkpoints.wait()
                progress.close_bar()
                _end_by_signal(stop, done)
    return state


def _restore(checkpoints: Checkpoints, like: Any, resume: bool, run_dir: Path) -> tuple[int, Any]:
    """The number of finished steps and the state of the newest checkpoint. Raises: UserError without `resume`."""
    if not resume:
        raise UserError(f"{run_dir} already holds a run: continue it with --resume, or choose another --out")
    return checkpoints.restore(like)


def _agreed(signal_here: int, due: bool) -> int:
    """The signal that ends the run, 0 for none. All hosts of a pod stop after the same step.

    due: whether the hosts of a pod wait for each other at this step anyway. They exchange signals only then.
    """
    if jax.process_count() == 1:
        return signal_here
    return int(multihost_utils.process_allgather(np.int32(signal_here)).max()) if due else 0


def _end_by_signal(number: int, step: int) -> NoReturn:
    if is_first_host():
        print(f"stopped by {signal.Signals(number).name} after step {step}; continue with --resume", flush=True)
    raise Interrupted(128 + number)


def _preview_due(done: int, config: LoopConfig) -> bool:
    """Whether a preview is drawn after this step. The preview of the last step is drawn when the adapter is saved."""
    return config.preview_every > 0 and done < config.steps and done % config.preview_every == 0


def _due(done: int, every: int, total: int) -> bool:
    return done == total or (every > 0 and done % every == 0)
