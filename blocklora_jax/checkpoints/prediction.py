"""What a single file says of its schedule: by its header, or by tensors whose names alone are read.

| where | says |
|---|---|
| a tensor `v_pred` | the model predicts the velocity; ComfyUI obeys it in SDXL |
| a tensor `ztsnr` beside it | its last training step has no signal (`rescale_betas_zero_snr`) |
| `modelspec.prediction_type` | "v" or "epsilon"; sd-scripts writes it, programs that copy headers may leave it behind |
| `modelspec.predict_key` | the same, as ComfyUI writes it |
| `blocklora.scheduler` | the whole `scheduler_config.json`, in files of our own |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json

SCHEDULER = "blocklora.scheduler"
CONFIG = "blocklora.config"
_HEADERS = ("modelspec.prediction_type", "modelspec.predict_key")
_PREDICTIONS = {
    **dict.fromkeys(("epsilon", "eps"), "epsilon"),
    **dict.fromkeys(("v", "v_prediction", "v-prediction"), "v_prediction"),
}
_LONGEST = 1_000_000
# Schedulers that can do without a signal at the last step, as diffusers 0.42 has them.
ZERO_SNR_CLASSES = frozenset(
    "DDIMScheduler DDIMInverseScheduler DDIMParallelScheduler DDPMScheduler DDPMParallelScheduler"
    " DPMSolverMultistepScheduler EulerAncestralDiscreteScheduler EulerDiscreteScheduler LCMScheduler TCDScheduler"
    " UniPCMultistepScheduler".split()
)
# Fields that say which noise the model was trained with and what it answers, and what they are where they are absent.
_TRAINING = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}


@dataclass(frozen=True, kw_only=True)
class Stated:
    """Fields of a scheduler's config that a single file states.

    by_tensors: these are part of the weights, and hold whatever a config says. by_header: these may be left over from
    another model. whole: a complete config, of a file of our own; {} if there is none.
    """

    by_tensors: Mapping[str, Any] = field(default_factory=dict)
    by_header: Mapping[str, Any] = field(default_factory=dict)
    whole: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prediction(self) -> str | None:
        """What the model predicts, "epsilon" or "v_prediction"; None if the file does not say."""
        whole = {"prediction_type": "epsilon", **self.whole} if self.whole else {}
        return {**whole, **self.by_header, **self.by_tensors}.get("prediction_type")

    def differences(self, scheduler: Mapping[str, Any]) -> list[str]:
        """Where the header disagrees with a scheduler's config: "prediction_type is v_prediction, not epsilon", …"""
        whole = {name: self.whole.get(name, default) for name, default in _TRAINING.items()} if self.whole else {}
        ours = {**whole, **self.by_header, **self.by_tensors}
        theirs = {**_TRAINING, **scheduler, **self.by_tensors}
        return [f"{name} is {value}, not {theirs[name]}" for name, value in ours.items() if value != theirs[name]]

    def obeyed(self, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """The scheduler's config with what the file states."""
        config = {**(self.whole or scheduler), **self.by_header, **self.by_tensors}
        if config.get("rescale_betas_zero_snr") is True and config.get("_class_name") not in ZERO_SNR_CLASSES:
            # PyTorch's class would pass over the field without a word.
            config["_class_name"] = "DDIMScheduler"
        return config


def read_stated(path: object, keys: Collection[str], metadata: Mapping[str, str]) -> Stated:
    """What the single file at `path` says.

    Raises: UserError if it predicts something else than the noise or the velocity, contradicts itself, or has nothing
    to predict: no signal at the last step, and the noise for an answer.
    """
    by_header = _by_header(path, metadata)
    by_tensors: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in keys else {}
    whole = _whole(path, metadata)
    stated = Stated(by_tensors=by_tensors, by_header=by_header, whole=whole)
    if "ztsnr" in keys:
        if stated.prediction != "v_prediction":
            raise UserError(
                f"{path} has a tensor 'ztsnr' (zero terminal SNR) but none 'v_pred': a model that predicts epsilon has"
                " nothing to predict without a signal. Add the one, or take out the other"
            )
        by_tensors["rescale_betas_zero_snr"] = True
    return stated


def marker_keys(scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the empty tensors that say to other programs what the model predicts, and from what noise."""
    if scheduler.get("prediction_type") != "v_prediction":
        return ()
    return ("v_pred", "ztsnr") if scheduler.get("rescale_betas_zero_snr") else ("v_pred",)


def _by_header(path: object, metadata: Mapping[str, str]) -> dict[str, Any]:
    stated = {key: metadata[key] for key in _HEADERS if metadata.get(key)}
    meant = {_PREDICTIONS.get(value.lower()) for value in stated.values()}
    if None in meant or len(meant) > 1:
        said = ", ".join(f"{key} is {value[:60]!r}" for key, value in stated.items())
        raise UserError(f"the header of {path} says: {said}; Stable Diffusion predicts 'epsilon' or 'v', one of them")
    return {"prediction_type": meant.pop()} if meant else {}


def _whole(path: object, metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get(SCHEDULER)
    if text is None:
        return {}
    try:
        # diffusers writes `-Infinity` in such configs.
        config = parse_json(text, str(path), infinity=True) if len(text) <= _LONGEST else None
    except UserError:
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise UserError(f"{path}: its header's {SCHEDULER} is no scheduler config; save the model again")
    return config
