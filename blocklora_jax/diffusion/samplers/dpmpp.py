"""DPM-Solver++ (2M): second order, multistep, midpoint; as an ODE and, with fresh noise in each step, as an SDE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.log_snr import Levels, make_levels
from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler, State, ToX0, Values, scale, to_x0
from blocklora_jax.diffusion.samplers.spacing import SPACINGS
from blocklora_jax.diffusion.schedule import Schedule


class Coefficients(NamedTuple):
    """For each step: how to compute `x0`, and weights of the latents, of `x0` and of its change since the last step."""

    x0: ToX0
    latents_by: Values
    x0_by: Values
    change_by: Values


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `linspace` if the config names none.

    The first step has no step before it, and the last one ends at sigma 0, so both are of first order.

    Source: diffusers' `DPMSolverMultistepScheduler` (`dpmsolver++`, order 2, midpoint, final sigma zero).
    """
    levels = _levels(schedule, num_steps)
    x0_by = -levels.next_signal * (np.exp(-levels.rise) - 1)
    return _plan(schedule, levels, levels.next_spread / levels.spread, x0_by)


def init_sde(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of the SDE solver; see `init`.

    Source: diffusers' `DPMSolverMultistepScheduler` (`sde-dpmsolver++`).
    """
    levels = _levels(schedule, num_steps)
    latents_by = levels.next_spread / levels.spread * np.exp(-levels.rise)
    x0_by = levels.next_signal * (1 - np.exp(-2 * levels.rise))
    plan = _plan(schedule, levels, latents_by, x0_by)
    return plan._replace(noise_by=levels.next_spread * np.sqrt(1 - np.exp(-2 * levels.rise)))


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """`x' = s'/s x + w x0 + w / (2 r) (x0 - previous x0)`. Source: "DPM-Solver++", algorithm 2."""
    x0 = row.x0(state.latents, output)
    change = row.change_by * (x0 - state.previous_x0)
    return State(row.latents_by * state.latents + row.x0_by * x0 + change, x0)


def restart(coefficients: Coefficients) -> Coefficients:
    """The coefficients with a first step of first order."""
    change_by = coefficients.change_by.copy()
    change_by[0] = 0
    return coefficients._replace(change_by=change_by)


def _levels(schedule: Schedule, num_steps: int) -> Levels:
    return make_levels(schedule, num_steps, _visitable_steps(schedule), schedule.beta_schedule != "squaredcos_cap_v2")


def _plan(schedule: Schedule, levels: Levels, latents_by: np.ndarray, x0_by: np.ndarray) -> Plan:
    coefficients = Coefficients(
        x0=to_x0(schedule, levels.signal, levels.spread),
        latents_by=latents_by,
        x0_by=x0_by,
        change_by=_change_weights(x0_by, levels.level, levels.rise),
    )
    noise_levels = NoiseLevels(levels.signal, levels.spread)
    return Plan(levels.timesteps, np.float32(1), coefficients, levels=noise_levels)


def _visitable_steps(schedule: Schedule) -> int:
    """The number of training steps whose half log-SNR is at least `lambda_min_clipped`."""
    signal, spread = np.sqrt(schedule.alphas_cumprod), np.sqrt(1 - schedule.alphas_cumprod)
    with np.errstate(divide="ignore"):
        level = np.log(signal) - np.log(spread)
    return int((level >= schedule.lambda_min_clipped).sum())


def _change_weights(x0_by: np.ndarray, level: np.ndarray, rise: np.ndarray) -> np.ndarray:
    """Half the weight of `x0`, divided by the ratio of the last rise in log-SNR to this one; 0 in first-order steps."""
    weights = np.zeros_like(x0_by)
    weights[1:-1] = 0.5 * x0_by[1:-1] * rise[1:-1] / np.diff(level)[:-1]
    return weights


dpmpp_2m = Sampler(init, scale, step, spacings=SPACINGS, restart=restart)
dpmpp_2m_sde = Sampler(init_sde, scale, step, spacings=SPACINGS, adds_noise=True, restart=restart)
