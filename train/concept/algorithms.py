"""The algorithms and the learning-rate schedules of training, by the names of `--optimizer` and `--schedule`."""

from __future__ import annotations

from typing import Any

import jax
import optax
import optax.contrib

from train.concept.settings.optimizer import OptimizerSettings

# Adafactor keeps row and column means only of matrices whose sides are both at least this long.
_FACTORED_FROM = 8


def make_schedule(settings: OptimizerSettings, peak: float, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up to `peak`, then what `--schedule` names.

    cosine and linear end at a tenth of the peak. steps: of the whole training.
    """
    warmup = min(settings.warmup_steps, steps - 1)
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 10)
    last = peak / 10 if settings.schedule == "linear" else peak
    # Not `warmup_constant_schedule`, which stays at 0 if there is no warm-up.
    parts = [optax.linear_schedule(0.0, peak, warmup), optax.linear_schedule(peak, last, steps - warmup)]
    return optax.join_schedules(parts, [warmup])


def make_algorithm(settings: OptimizerSettings, rate: optax.Schedule) -> optax.GradientTransformation:
    """The algorithm that `--optimizer` names, with the learning rate `rate`.

    Sources: AdamW, arXiv 1711.05101; Prodigy, arXiv 2306.06101; Adafactor, arXiv 1804.04235.
    """
    if settings.optimizer == "prodigy":
        # With the safeguard, the small rates of the warm-up do not distort the estimate of the step size.
        return _unless_empty(optax.contrib.prodigy(rate, weight_decay=settings.weight_decay, safeguard_warmup=True))
    if settings.optimizer == "adafactor":
        # `optax.adafactor` would not multiply the weight decay by the learning rate. Updates are not scaled by the
        # size of the parameters, because an up projection starts at zero.
        return optax.chain(
            optax.scale_by_factored_rms(min_dim_size_to_factor=_FACTORED_FROM),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(settings.weight_decay),
            optax.scale_by_learning_rate(rate),
        )
    return optax.adamw(rate, weight_decay=settings.weight_decay)


def _unless_empty(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transform`, but nothing for a group without parameters, where Prodigy's step size would be 0 / 0."""

    def init(params: Any) -> Any:
        return transform.init(params) if jax.tree.leaves(params) else optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return transform.update(updates, state, params) if jax.tree.leaves(updates) else (updates, state)

    return optax.GradientTransformation(init, update)
