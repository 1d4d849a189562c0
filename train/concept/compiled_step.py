"""The compiled training step. It is kept: trainings of one process with the same settings trace and compile it once."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import jax
import optax

from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.schedule import Schedule
from train.concept.common_settings import OF_ITS_OWN
from train.concept.config import ConceptConfig
from train.concept.settings.adapter import AdapterSettings
from train.concept.settings.erasure import ErasureSettings
from train.concept.settings.loss import LossSettings
from train.concept.settings.optimizer import OptimizerSettings
from train.concept.settings.token_side import TokenSideSettings
from train.concept.spread import Spread
from train.concept.state import make_optimizer
from train.concept.step import make_step
from train.engine.parallel import Step, map_step


def compile_step(
    config: ConceptConfig, models: Models, schedule: Schedule, spread: Spread
) -> tuple[optax.GradientTransformation, Step]:
    """The optimizer, and the step of all concepts that train as `config` says; see `Spread.map_step`."""
    return _compile(
        models, schedule, _of_all(config.adapter), _of_all(config.erasure), config.loss, config.token_side,
        config.optimizer, config.steps, spread.devices, spread.mapper, spread.groups,
    )  # fmt: skip


def _of_all(settings: Any) -> Any:
    """`settings` without those that may differ between concepts of one program. They are no part of it."""
    own = {field.name: field.default for field in fields(settings) if field.name in OF_ITS_OWN}
    return replace(settings, **own)


@lru_cache(maxsize=4)
def _compile(
    models: Models,
    schedule: Schedule,
    adapter: AdapterSettings,
    erasure: ErasureSettings,
    loss: LossSettings,
    token_side: TokenSideSettings,
    rates: OptimizerSettings,
    steps: int,
    devices: tuple[jax.Device, ...],
    mapper: str,
    groups: int,
) -> tuple[optax.GradientTransformation, Step]:
    optimizer = make_optimizer(rates, steps, adapter.down_is_frozen)
    step = make_step(
        models, schedule, optimizer, adapter=adapter, erasure=erasure, loss=loss, token_side=token_side,
        accumulate=rates.accumulate,
    )  # fmt: skip
    return optimizer, map_step(step, devices, mapper, groups)
