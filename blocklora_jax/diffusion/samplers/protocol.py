"""The interface of samplers: a plan that is made once with NumPy, and pure steps for `jax.lax.scan`.

    plan = sampler.init(schedule, num_steps)             # arrays with a leading axis of steps
    state = start(plan, noise, sampler.memory)
    for row in the rows of (plan.timesteps, plan.coefficients):      # jax.lax.scan
        output = unet(sampler.scale(row, state.latents), timestep)
        state = sampler.step(row, state, output)
        state.latents += noise_by * fresh noise          # only if the plan has noise_by
    state.latents                                        # clean latents

Everything that depends on the schedule, the prediction type and the step is in the coefficients. They are computed in
fp32, in the same order as in diffusers. So the steps are a few multiplications and do not depend on configs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.spacing import TIMESTEP_SPACINGS
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

# A coefficient: a NumPy array [n] in a plan, and a JAX scalar in the row that a step reads.
Values = Any


class NoiseLevels(NamedTuple):
    """Latents are `signal * x0 + spread * noise`; float32 [n] each."""

    signal: np.ndarray
    spread: np.ndarray


class Plan(NamedTuple):
    """The steps from noise to latents.

    timesteps: for the U-Net, float32 [n], one for each of its calls. init_noise_sigma: standard deviation of the first
    noise. coefficients: a NamedTuple of arrays [n]. noise_by: standard deviation of the fresh noise that is added after
    each step, float32 [n]; None for samplers that add none. levels: of the latents before each call; None if pictures
    cannot be made from other pictures.
    """

    timesteps: np.ndarray
    init_noise_sigma: np.float32
    coefficients: Any
    noise_by: np.ndarray | None = None
    levels: NoiseLevels | None = None


class State(NamedTuple):
    """The state that is passed from step to step. Only multistep samplers read `previous_x0`.

    memory: further arrays of the same shape, as many as the sampler's `memory` says.
    """

    latents: Float[Array, "b h w c"]
    previous_x0: Float[Array, "b h w c"]
    memory: tuple[Float[Array, "b h w c"], ...] = ()


def _same(coefficients: Any) -> Any:
    return coefficients


class Sampler(NamedTuple):
    """`init(schedule, num_steps)`, `scale(row, latents)`, `step(row, state, output)`; see the top of this file.

    memory: number of arrays that the state has besides the latents and the previous x0. spacings: those that users can
    choose. adds_noise: whether its plans have `noise_by`. calls: of the U-Net in a step. restart: turns coefficients
    whose first rows were cut off into those of a first step.
    """

    init: Callable[[Schedule, int], Plan]
    scale: Callable[[Any, Array], Array]
    step: Callable[[Any, State, Array], State]
    memory: int = 0
    spacings: tuple[str, ...] = TIMESTEP_SPACINGS
    adds_noise: bool = False
    calls: int = 1
    restart: Callable[[Any], Any] = _same


def start(plan: Plan, noise: Float[Array, "b h w c"], memory: int = 0) -> State:
    """The state before the first step, from unit normal noise. memory: see `Sampler`."""
    zeros = jnp.zeros_like(noise)
    return State(latents=noise * plan.init_noise_sigma, previous_x0=zeros, memory=(zeros,) * memory)


def scale(row: Any, latents: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The U-Net's input in the variance-preserving form `x = signal * x0 + spread * noise`: the latents themselves."""
    return latents


class ToX0(NamedTuple):
    """Coefficients of `x0 = (x * latents_by - output * output_by) / divide_by`, any shape."""

    latents_by: Values
    output_by: Values
    divide_by: Values

    def __call__(self, latents: Array, output: Array) -> Array:
        return (latents * self.latents_by - output * self.output_by) / self.divide_by


def to_x0(schedule: Schedule, signal: np.ndarray, spread: np.ndarray) -> ToX0:
    """How to compute `x0` from the U-Net's output for `x = signal * x0 + spread * noise`."""
    one = np.ones_like(signal)
    if schedule.prediction_type == "epsilon":
        return ToX0(one, spread, signal)
    return ToX0(signal, spread, one)


def spaced_timesteps(schedule: Schedule, num_steps: int, *, default: str, last: int, spare: int = 0) -> np.ndarray:
    """The training steps to use, in falling order, float64 `[num_steps]`. Only `linspace` gives fractions.

    Args:
        schedule: its `timestep_spacing` is used, or `default` if it has none.
        num_steps: number of steps.
        default: the spacing for configs that name none.
        last: number of training steps that may be used.
        spare: number of further steps that are spaced out and then left out at the end (for multistep samplers).

    Raises:
        UserError: the schedule does not have so many steps.

    Source: table 2 of "Common diffusion noise schedules and sample steps are flawed", as rounded by diffusers.
    """
    points, total = num_steps + spare, schedule.num_train_timesteps
    if num_steps < 1 or points > last:
        raise UserError(f"{num_steps} sampling steps: this schedule and sampler allow 1 to {last - spare}")
    spacing = schedule.timestep_spacing or default
    if spacing == "linspace":
        return np.linspace(0, last - 1, points)[::-1][:num_steps]
    if spacing == "trailing":
        # Rounding in arange can give one more point, the training step -1. diffusers then uses it; we do not.
        return np.round(np.arange(last, 0, -total / num_steps))[:num_steps] - 1
    steps = (np.arange(points) * (last // points))[::-1][:num_steps] + schedule.steps_offset
    if steps[0] >= total:
        raise UserError(
            f"{num_steps} sampling steps with steps_offset {schedule.steps_offset} pass the last training step "
            f"{total - 1}; use fewer steps"
        )
    return steps.astype(np.float64)
