"""Fields of `scheduler_config.json`: which we compute with, which must keep one value, which say nothing to us."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blocklora_jax.diffusion.betas import BETA_SCHEDULES
from blocklora_jax.errors import UserError

if TYPE_CHECKING:
    from blocklora_jax.diffusion.schedule import Schedule

CHOICES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": BETA_SCHEDULES,
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    # What diffusers can do and we cannot: only the value that switches it off.
    "algorithm_type": ("dpmsolver++",),
    "final_sigmas_type": ("zero",),
    "flow_shift": (1.0,),
    "interpolation_type": ("linear",),
    "sigma_max": (None,),
    "sigma_min": (None,),
    "solver_order": (2,),
    "solver_type": ("midpoint",),
    "thresholding": (False,),
    "timestep_type": ("discrete",),
    "trained_betas": (None,),
    "use_beta_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "use_exponential_sigmas": (False,),
    "use_flow_sigmas": (False,),
    "use_karras_sigmas": (False,),
    "use_lu_lambdas": (False,),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # bool is an int to Python, but not in a config


RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_train_timesteps": ("a whole number above 0", lambda value: type(value) is int and value > 0),
    "beta_start": ("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1),
    "beta_end": ("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1),
    "steps_offset": ("a whole number from 0", lambda value: type(value) is int and value >= 0),
    "set_alpha_to_one": ("true, false", lambda value: type(value) is bool),
    "clip_sample": ("true, false", lambda value: type(value) is bool),
    "clip_sample_range": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "rescale_betas_zero_snr": ("true, false", lambda value: type(value) is bool),
    "lambda_min_clipped": ("a number", lambda value: _is_number(value) and not math.isnan(value)),
}

# Kept for saving only. The caller chooses the sampler, so the class and PNDM's own switch do not matter;
# the last step is first-order whatever `lower_order_final` and `euler_at_final` say, because it ends at sigma 0;
# the others qualify something that is switched off.
BOOKKEEPING = (
    "_class_name",
    "_diffusers_version",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "lower_order_final",
    "sample_max_value",
    "skip_prk_steps",
    "time_shift_type",
)

COMPUTED = tuple(RULES) + ("beta_schedule", "prediction_type", "timestep_spacing")


def parse(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Arguments of `Schedule` from a parsed `scheduler_config.json`; fields that are absent keep their defaults.

    Raises:
        UserError: names every unknown field and every unsupported value at once.
    """
    problems = [problem for name, value in config.items() if (problem := _problem(name, value))]
    if config.get("rescale_betas_zero_snr") is True and config.get("prediction_type", "epsilon") == "epsilon":
        problems.append("rescale_betas_zero_snr = True leaves nothing to predict at the last step with epsilon")
    if problems:
        raise UserError(f"{source}: this noise schedule is not supported: " + "; ".join(problems))
    fields: dict[str, Any] = {name: config[name] for name in COMPUTED if name in config}
    fields |= {name: float(fields[name]) for name in ("clip_sample_range", "lambda_min_clipped") if name in fields}
    rest = {name: value for name, value in config.items() if name not in fields}
    return {**fields, "bookkeeping": tuple(sorted(rest.items()))}


def render(schedule: Schedule) -> dict[str, Any]:
    """The `scheduler_config.json` of a schedule; one that came from no file is given as a `DDIMScheduler`."""
    fields = {name: getattr(schedule, name) for name in COMPUTED}
    # Minus infinity is not JSON, and means the same as no field; so does a spacing left to the sampler.
    kept = {name: value for name, value in fields.items() if value is not None and value != -math.inf}
    return {"_class_name": "DDIMScheduler", **dict(schedule.bookkeeping), **kept}


def _problem(name: str, value: Any) -> str | None:
    if name in CHOICES:
        if any(value == choice and type(value) is type(choice) for choice in _spellings(CHOICES[name])):
            return None
        return f"{name} = {value!r} (supported: {', '.join(map(repr, CHOICES[name]))})"
    if name in RULES:
        supported, holds = RULES[name]
        return None if holds(value) else f"{name} = {value!r} (supported: {supported})"
    return None if name in BOOKKEEPING else f"{name} = {value!r} (unknown field)"


def _spellings(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    """A JSON writer may drop the point of a whole number."""
    return choices + tuple(int(choice) for choice in choices if type(choice) is float)
