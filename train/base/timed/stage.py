"""A stage as a compiled function of many steps. Its data lie on the device, and the host only tells the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from train.base.timed.schedules import Decay

# loss(params, frozen, rows, key) -> (loss, metrics).
Loss = Callable[[Any, Any, Any, Array], tuple[Array, dict[str, Array]]]


class TimedState(NamedTuple):
    """step: int32, finished steps. params. average: their moving average. opt_state: of the optimizer."""

    step: Array
    params: Any
    average: Any
    opt_state: Any


class Data(NamedTuple):
    """Rows on the device, of which the first `count` are there. The rest is room."""

    rows: Any
    count: Any


class Time(NamedTuple):
    """Where a call begins and ends, as parts of the stage's time, and a factor of its learning rate."""

    begun: Any
    end: Any
    factor: Any


@dataclass(frozen=True, kw_only=True)
class Stage:
    """name: of its folder. loss: see `Loss`. batch: rows of a step. decay: of the learning rate. steps: of one call.

    average: the decay of the moving average; 0: the average is the parameters.
    """

    name: str
    loss: Loss
    batch: int
    learning_rate: float
    decay: Decay
    seed: int
    steps: int
    weight_decay: float = 0.0
    average: float = 0.0

    def start(self, params: Any) -> TimedState:
        """The state before the first step."""
        average = jax.tree.map(jnp.copy, params)
        return TimedState(jnp.zeros((), jnp.int32), params, average, self._optimizer().init(params))

    def function(self) -> Callable[[TimedState, Data, Any, Time], tuple[TimedState, dict[str, Array]]]:
        """`call(state, data, frozen, time)`: the state after `steps` steps, and the means of the metrics.

        It takes over the memory of `state`. The metric `rate` is the learning rate of the last step.
        """
        return partial(jax.jit, donate_argnums=0)(self._steps)

    def _optimizer(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(self.weight_decay)
        )

    def _steps(
        self, state: TimedState, data: Data, frozen: Any, time: Time
    ) -> tuple[TimedState, dict[str, Array]]:  # fmt: skip
        parts = jnp.arange(1, self.steps + 1) / self.steps
        progress = time.begun + (time.end - time.begun) * parts
        one = lambda state, progress: self._step(state, data, frozen, progress, time.factor)
        state, metrics = jax.lax.scan(one, state, progress)
        last = metrics.pop("rate")[-1]
        return state, {name: values.mean() for name, values in metrics.items()} | {"rate": last}

    def _step(
        self, state: TimedState, data: Data, frozen: Any, progress: Array, factor: Array
    ) -> tuple[TimedState, dict[str, Array]]:
        choice, noise = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), state.step))
        chosen = jax.random.randint(choice, (self.batch,), 0, data.count)
        rows = jax.tree.map(lambda x: x[chosen], data.rows)
        (_, metrics), grads = jax.value_and_grad(self.loss, has_aux=True)(state.params, frozen, rows, noise)
        updates, opt_state = self._optimizer().update(grads, state.opt_state, state.params)
        rate = factor * self.learning_rate * self.decay(progress, state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        # A small decay at first, so that the average forgets the random start.
        keep = jnp.minimum(self.average, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, state.average, 1.0 - keep)
        metrics = {**metrics, "gradient_norm": optax.global_norm(grads), "rate": rate}
        return TimedState(state.step + 1, params, average, opt_state), metrics
