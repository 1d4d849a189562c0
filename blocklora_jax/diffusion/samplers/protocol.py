"""What a sampler is: a plan made once with NumPy, and pure steps along it that `jax.lax.scan` can carry.

    plan = sampler.init(schedule, num_steps)             # arrays with a leading axis of steps
    state = start(plan, noise)
    for row in the rows of (plan.timesteps, plan.coefficients):      # jax.lax.scan
        output = unet(sampler.scale(row, state.latents), timestep)
        state = sampler.step(row, state, output)
    state.latents                                        # clean latents

All that depends on the schedule, the prediction type and the step lies in the coefficients, computed in fp32 in the
order that diffusers computes it, so the steps are a few multiplications and know nothing of configs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

# A coefficient: NumPy [n] in a plan, a JAX scalar in the row of it that a step is given.
Values = Any


class Plan(NamedTuple):
    """One trajectory: float32 `[n]` timesteps for the U-Net, the first noise's deviation, coefficients `[n]` each."""

    timesteps: np.ndarray
    init_noise_sigma: np.float32
    coefficients: Any


class State(NamedTuple):
    """What is carried from step to step; `previous_x0` is read by multistep samplers only."""

    latents: Float[Array, "b h w c"]
    previous_x0: Float[Array, "b h w c"]


class Sampler(NamedTuple):
    """`init(schedule, num_steps)`, `scale(row, latents)`, `step(row, state, output)`; see the top of this file."""

    init: Callable[[Schedule, int], Plan]
    scale: Callable[[Any, Array], Array]
    step: Callable[[Any, State, Array], State]


def start(plan: Plan, noise: Float[Array, "b h w c"]) -> State:
    """The state before the first step, from unit normal noise."""
    return State(latents=noise * plan.init_noise_sigma, previous_x0=jnp.zeros_like(noise))


class ToX0(NamedTuple):
    """Coefficients of `x0 = (x * latents_by - output * output_by) / divide_by`, any shape."""

    latents_by: Values
    output_by: Values
    divide_by: Values

    def __call__(self, latents: Array, output: Array) -> Array:
        return (latents * self.latents_by - output * self.output_by) / self.divide_by


def to_x0(schedule: Schedule, signal: np.ndarray, spread: np.ndarray) -> ToX0:
    """How to read `x0` off the U-Net's output on `x = signal * x0 + spread * noise`."""
    one = np.ones_like(signal)
    if schedule.prediction_type == "epsilon":
        return ToX0(one, spread, signal)
    return ToX0(signal, spread, one)


def spaced_timesteps(schedule: Schedule, num_steps: int, *, default: str, last: int, spare: int = 0) -> np.ndarray:
    """Training steps to visit, falling, float64 `[num_steps]`; only `linspace` gives fractions.

    Args:
        schedule: its `timestep_spacing` counts, else `default`.
        num_steps: how many.
        default: the spacing of a config that names none.
        last: number of training steps that may be visited.
        spare: how many steps more to space out and leave off at the end (multistep samplers).

    Raises:
        UserError: so many steps do not fit the schedule.

    Source: table 2 of "Common diffusion noise schedules and sample steps are flawed", as rounded by diffusers.
    """
    points, total = num_steps + spare, schedule.num_train_timesteps
    if num_steps < 1 or points > last:
        raise UserError(f"{num_steps} sampling steps: this schedule and sampler allow 1 to {last - spare}")
    spacing = schedule.timestep_spacing or default
    if spacing == "linspace":
        return np.linspace(0, last - 1, points)[::-1][:num_steps]
    if spacing == "trailing":
        # Rounding in arange can give one more point, the training step -1, which diffusers then visits; we do not.
        return np.round(np.arange(last, 0, -total / num_steps))[:num_steps] - 1
    steps = (np.arange(points) * (last // points))[::-1][:num_steps] + schedule.steps_offset
    if steps[0] >= total:
        raise UserError(
            f"{num_steps} sampling steps with steps_offset {schedule.steps_offset} pass the last training step "
            f"{total - 1}; take fewer steps"
        )
    return steps.astype(np.float64)
