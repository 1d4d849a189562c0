"""The exponential moving average (EMA) of the trained parameters, which is saved in their place."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


class AverageState(NamedTuple):
    """count: int32, finished steps. average: of the parameters, in their shapes."""

    count: Int[Array, ""]
    average: Any


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Passes updates on unchanged, and averages the parameters after them. It must be the last of a chain.

        average += (1 - d) (parameters - average),  d = min(decay, (1 + t) / (10 + t)), after t steps; 0 if t = 0

    The smaller d of early steps lets the average forget the start. The state is a part of the optimizer's state, so
    checkpoints hold it.

    Source: diffusers' `EMAModel`, without `use_ema_warmup`.
    """

    def init(params: Any) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AverageState]:
        steps = state.count.astype(jnp.float32)
        share = 1 - jnp.where(steps == 0, 0.0, jnp.minimum(decay, (1 + steps) / (10 + steps)))
        # In this form parameters that never change stay the same, bit for bit.
        average = jax.tree.map(
            lambda mean, new: mean + share * (new - mean), state.average, optax.apply_updates(params, updates)
        )
        return updates, AverageState(state.count + 1, average)

    return optax.GradientTransformation(init, update)


def saved_parameters(trainable: Any, opt_state: Any) -> Any:
    """The parameters that are saved: the average if the optimizer keeps one, else `trainable`."""
    last = opt_state[-1]
    return last.average if isinstance(last, AverageState) else trainable
