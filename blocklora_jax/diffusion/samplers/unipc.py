"""UniPC: a second-order multistep predictor. The next call of the U-Net corrects each prediction, at no cost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from blocklora_jax.diffusion.samplers.log_snr import Levels, make_levels
from blocklora_jax.diffusion.samplers.protocol import NoiseLevels, Plan, Sampler, State, ToX0, Values, scale, to_x0
from blocklora_jax.diffusion.samplers.spacing import SPACINGS
from blocklora_jax.diffusion.schedule import Schedule


class Transition(NamedTuple):
    """Weights of a step: of the latents before it, of `x0` there, of its change since the step before, and, in a
    correction, of the change to `x0` at its end.
    """

    latents_by: Values
    x0_by: Values
    change_by: Values
    end_by: Values


class Coefficients(NamedTuple):
    """For each step: how to compute `x0`, weights of the correction of the last step, and weights of the prediction.

    given_by: weight of the latents as they were predicted: 1 in the first step, which has nothing to correct.
    """

    x0: ToX0
    given_by: Values
    correct: Transition
    predict: Transition


def init(schedule: Schedule, num_steps: int) -> Plan:
    """The plan of `num_steps` steps. The spacing is `linspace` if the config names none.

    Source: diffusers' `UniPCMultistepScheduler` (order 2, `bh2`, final sigma zero), made from the same config.
    """
    levels = make_levels(schedule, num_steps, schedule.num_train_timesteps, round_curves=True)
    predict, correct = _transitions(levels)
    # The correction of a step takes place at the next one.
    correct = Transition(*(np.append(np.float32(0), weights[:-1]) for weights in correct))
    given_by = np.zeros_like(levels.signal)
    given_by[0] = 1
    coefficients = Coefficients(to_x0(schedule, levels.signal, levels.spread), given_by, correct, predict)
    noise_levels = NoiseLevels(levels.signal, levels.spread)
    return Plan(levels.timesteps, np.float32(1), coefficients, levels=noise_levels)


def restart(coefficients: Coefficients) -> Coefficients:
    """The coefficients with a first step of first order, which has nothing to correct."""
    given_by = coefficients.given_by.copy()
    predict, correct = (Transition(*(x.copy() for x in part)) for part in (coefficients.predict, coefficients.correct))
    given_by[0] = 1
    predict.change_by[0] = 0
    for weights in correct:
        weights[0] = 0
    # The correction of the first step is of first order too.
    correct.change_by[1:2] = 0
    correct.end_by[1:2] = 0.5 * correct.x0_by[1:2]
    return coefficients._replace(given_by=given_by, predict=predict, correct=correct)


def step(row: Coefficients, state: State, output: Float[Array, "b h w c"]) -> State:
    """Corrects the last step with `x0` at its end, then predicts the next. Source: "UniPC", algorithms 1 and 2."""
    earlier_x0, before = state.memory
    last_x0, x0 = state.previous_x0, row.x0(state.latents, output)
    fixed = row.correct
    corrected = row.given_by * state.latents + fixed.latents_by * before + fixed.x0_by * last_x0
    corrected += fixed.change_by * (last_x0 - earlier_x0) + fixed.end_by * (x0 - last_x0)
    ahead = row.predict
    predicted = ahead.latents_by * corrected + ahead.x0_by * x0 + ahead.change_by * (x0 - last_x0)
    return State(predicted, x0, (last_x0, corrected))


def _transitions(levels: Levels) -> tuple[Transition, Transition]:
    """The weights for predicting and for correcting each step. First order in the first step, and in the last."""
    # In double precision: for many steps the rise is small, and the two terms of each phi nearly cancel.
    rise = levels.rise.astype(np.float64)
    growth = np.expm1(-rise)
    second = np.zeros(len(rise), bool)
    second[1:-1] = True
    ratio = np.ones(len(rise))  # of the last rise in log-SNR to this one
    ratio[1:-1] = np.diff(levels.level.astype(np.float64))[:-1] / rise[1:-1]
    first_phi = -growth / rise - 1
    second_phi = -first_phi / rise - 0.5
    target, next_target = first_phi / growth, 2 * second_phi / growth
    # The solution of the two order conditions.
    change = np.where(second, (target - next_target) / (1 + ratio), 0)
    end = np.where(second, target - change, 0.5)
    step_size = -levels.next_signal * growth

    def weights(change_by: np.ndarray, end_by: np.ndarray) -> Transition:
        parts = (levels.next_spread / levels.spread, step_size, step_size * change_by / ratio, step_size * end_by)
        return Transition(*(part.astype(np.float32) for part in parts))

    return weights(np.where(second, 0.5, 0), np.zeros(len(rise))), weights(change, end)


unipc = Sampler(init, scale, step, memory=2, spacings=SPACINGS, restart=restart)
