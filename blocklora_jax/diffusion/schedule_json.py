"""Fields of `scheduler_config.json`: those that are used, those that must have one value, and those that are only kept.

Training and sampling need the noise (betas, zero terminal SNR), what the model predicts, and the spacing of steps.
Everything else is about the sampler that the file names. It is kept unchanged for saving.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from blocklora_jax.diffusion.betas import BETA_SCHEDULES
from blocklora_jax.errors import UserError

MOST_STEPS = 100_000

CHOICES: dict[str, tuple[Any, ...]] = {
    "beta_schedule": BETA_SCHEDULES,
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    # With another value the model was trained for something that is not supported: noise by a flow, steps given by
    # their noise level, a prediction that includes a variance, or, without prediction_type, the clean picture.
    "predict_epsilon": (None, True),
    "snr_shift_scale": (None, 1.0),
    "timestep_type": ("discrete",),
    "use_dynamic_shifting": (False,),
    "use_flow_sigmas": (False,),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # In Python a bool is an int, but not in a config.


def _is_beta(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _are_betas(value: Any) -> bool:
    return value is None or (isinstance(value, list) and 0 < len(value) <= MOST_STEPS and all(map(_is_beta, value)))


RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_train_timesteps": (
        f"a whole number from 1 to {MOST_STEPS}",
        lambda value: type(value) is int and 0 < value <= MOST_STEPS,
    ),
    "beta_start": ("a number between 0 and 1", _is_beta),
    "beta_end": ("a number between 0 and 1", _is_beta),
    "trained_betas": ("null, or a list of numbers between 0 and 1, one a training step", _are_betas),
    "steps_offset": (
        f"a whole number from 0 to {MOST_STEPS}",
        lambda value: type(value) is int and 0 <= value <= MOST_STEPS,
    ),
    "set_alpha_to_one": ("true, false", lambda value: type(value) is bool),
    "clip_sample": ("true, false", lambda value: type(value) is bool),
    "clip_sample_range": ("a number above 0", lambda value: _is_number(value) and 0 < value < 1e6),
    "rescale_betas_zero_snr": ("true, false", lambda value: type(value) is bool),
    "lambda_min_clipped": ("a number", lambda value: _is_number(value) and (value == -math.inf or abs(value) < 1e6)),
}

# Settings of diffusers' samplers. The caller chooses the sampler, so they are only kept for saving.
SAMPLERS_OWN = frozenset(
    "_class_name _diffusers_version algorithm_type corrector_order disable_corrector"
    " dynamic_thresholding_ratio eta euler_at_final final_sigmas_type flow_shift interpolation_type lower_order_final"
    " noise_sampler_seed original_inference_steps predict_x0 predictor_order sample_max_value sigma_max sigma_min"
    " skip_prk_steps solver_order solver_p solver_type tau_func thresholding time_shift_type timestep_scaling"
    " use_beta_sigmas use_exponential_sigmas use_karras_sigmas use_lu_lambdas".split()
)
# An unknown field with one of these words in its name may be about the noise that the model was trained with.
_NOISE = re.compile(r"alpha|beta|edm|flow|noise|param|predict|scal|shift|sigma|snr|train|type|variance", re.IGNORECASE)

# Scheduler classes that add noise by betas, as in Stable Diffusion's training. For each: its defaults for betas that a
# config does not name, where they differ from those of diffusers' other schedulers.
_LATENT_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012}
_LATENT = {**_LATENT_LINEAR, "beta_schedule": "scaled_linear"}
CLASSES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "DDIMScheduler DDIMInverseScheduler DDIMParallelScheduler DDPMScheduler DDPMParallelScheduler"
            " DEISMultistepScheduler DPMSolverMultistepScheduler DPMSolverMultistepInverseScheduler"
            " DPMSolverSinglestepScheduler EulerAncestralDiscreteScheduler EulerDiscreteScheduler LMSDiscreteScheduler"
            " PNDMScheduler SASolverScheduler UniPCMultistepScheduler"
        ).split(),
        {},
    ),
    **dict.fromkeys(
        "DPMSolverSDEScheduler HeunDiscreteScheduler KDPM2AncestralDiscreteScheduler KDPM2DiscreteScheduler".split(),
        _LATENT_LINEAR,
    ),
    **dict.fromkeys("LCMScheduler TCDScheduler".split(), _LATENT),
}
COMPUTED = tuple(RULES) + ("beta_schedule", "prediction_type", "timestep_spacing")


def parse(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Arguments of `Schedule` from a parsed `scheduler_config.json`. Missing fields keep their defaults.

    Raises:
        UserError: one message names every field that requires an unsupported kind of noise or of prediction.
    """
    problems = [problem for name, value in config.items() if (problem := _problem(name, value))]
    problems += _class_problems(config) or _whole_problems(config)
    if problems:
        raise UserError(f"{source}: this noise schedule is not supported: " + "; ".join(problems))
    known = CLASSES.get(config.get("_class_name", ""), {})
    fields: dict[str, Any] = known | {name: config[name] for name in COMPUTED if name in config}
    fields |= {name: float(fields[name]) for name in ("clip_sample_range", "lambda_min_clipped") if name in fields}
    if fields.get("trained_betas") is not None:
        fields["trained_betas"] = tuple(map(float, fields["trained_betas"]))
    rest = {name: value for name, value in config.items() if name not in fields}
    return {**fields, "bookkeeping": tuple(sorted(rest.items()))}


def render(schedule: Any) -> dict[str, Any]:
    """The `scheduler_config.json` of a `Schedule`. If it was not read from a file, its class is `DDIMScheduler`."""
    fields = {name: getattr(schedule, name) for name in COMPUTED}
    # Minus infinity is not JSON and means the same as a missing field. A missing spacing is left out too.
    kept = {name: value for name, value in fields.items() if value is not None and value != -math.inf}
    betas = schedule.trained_betas
    return {
        "_class_name": "DDIMScheduler",
        **dict(schedule.bookkeeping),
        **kept,
        "trained_betas": None if betas is None else list(betas),
    }


def _problem(name: str, value: Any) -> str | None:
    if name in CHOICES:
        if any(value == choice and type(value) is type(choice) for choice in _spellings(CHOICES[name])):
            return None
        return f"{name} = {_shown(value)} (supported: {', '.join(map(repr, CHOICES[name]))})"
    if name in RULES:
        supported, holds = RULES[name]
        return None if holds(value) else f"{name} = {_shown(value)} (supported: {supported})"
    if name in SAMPLERS_OWN or value in (None, False) or not _NOISE.search(name):
        return None
    return f"{name} = {_shown(value)} (unknown field, which may be about the noise)"


def _class_problems(config: dict[str, Any]) -> list[str]:
    """The problems of the scheduler's class. Fields do not show whether a class adds noise in another way."""
    name = config.get("_class_name")
    if not isinstance(name, str | None):
        return [f"_class_name = {_shown(name)} (supported: a name)"]
    if name is None or name in CLASSES:
        return []
    if name.startswith("EDM") or "sigma_data" in config:
        return [f"{name} scales the model's input and output by EDM's preconditioning (Playground v2.5, for one)"]
    # An unknown class may sample in any way, if its config states the betas by which it adds noise.
    if "beta_schedule" in config and {"beta_start", "beta_end"} <= config.keys() and name.endswith("Scheduler"):
        return []
    return [f"{name} does not add noise by betas, as Stable Diffusion does (supported: {', '.join(CLASSES)})"]


def _whole_problems(config: dict[str, Any]) -> list[str]:
    """The problems of combinations of fields."""
    problems = []
    if config.get("rescale_betas_zero_snr") is True and config.get("prediction_type", "epsilon") == "epsilon":
        problems.append("rescale_betas_zero_snr = True leaves nothing to predict at the last step with epsilon")
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if isinstance(betas, list) and len(betas) != steps:
        problems.append(f"trained_betas are {len(betas)} for num_train_timesteps = {_shown(steps)}")
    return problems


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _spellings(choices: tuple[Any, ...]) -> tuple[Any, ...]:
    """The choices, and integers for floats: a JSON writer may drop the point of a whole number."""
    return choices + tuple(int(choice) for choice in choices if type(choice) is float)
