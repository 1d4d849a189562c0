"""The progress of a run: a bar, and every few steps a line of metrics with the speed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm.auto import tqdm

from blocklora_jax.errors import UserError
from train.engine.followers.follower import Follower
from train.engine.log import MetricsLog
from train.engine.platform import is_first_host


class Progress:
    """The bar and the log of a run. Use it in a `with` block, which ends the bar, also after an error.

    followers: are told the metrics too.
    """

    def __init__(self, run_dir: Path, first: int, steps: int, label: str, followers: Sequence[Follower] = ()) -> None:
        self._run_dir, self._followers = run_dir, followers
        self._log = MetricsLog(run_dir, first)
        shown = {"unit": "step", "dynamic_ncols": True, "mininterval": 1.0, "disable": not is_first_host()}
        self._bar = tqdm(total=steps, initial=first, desc=label, **shown)
        self.restart_clock(first)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self) -> None:
        """Count one more finished step."""
        self._bar.update()

    def report(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of the step after which `done` are finished. Raises: UserError if one is not finite."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        require_finite(values, done, self._run_dir)
        values["steps_per_second"] = (done - self._since) / (time.perf_counter() - self._began)
        self.restart_clock(done)
        self._log.write(done, values)
        for follower in self._followers:
            follower.metrics(done, values)
        self._bar.set_postfix({name: f"{values[name]:.4g}" for name in list(values)[:3]})

    def restart_clock(self, done: int) -> None:
        """Measure the speed from now on."""
        self._began, self._since = time.perf_counter(), done

    def close_bar(self) -> None:
        """End the bar, so that a line can be printed below it."""
        self._bar.close()


def require_finite(metrics: Mapping[str, Any], step: int, run_dir: Path) -> None:
    """Raises UserError if a metric is NaN or infinite."""
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"{', '.join(bad)} became NaN or infinite by step {step}: lower the learning rates or use fp32; "
            f"the last good checkpoint is in {run_dir / 'checkpoints'}"
        )
