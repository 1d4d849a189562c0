"""What a single file states about its schedule, in its header or by the names of empty tensors.

| where | meaning |
|---|---|
| a tensor `v_pred` | the model predicts the velocity; ComfyUI uses it for SDXL |
| and a tensor `ztsnr` | the last training step has no signal (`rescale_betas_zero_snr`) |
| `modelspec.prediction_type` | "v" or "epsilon"; written by sd-scripts; may be wrong where a program copied a header |
| `modelspec.predict_key` | the same, written by ComfyUI |
| `blocklora.scheduler` | the whole `scheduler_config.json`, in files that we wrote |
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
# Schedulers of diffusers 0.42 that support a last step without signal.
ZERO_SNR_CLASSES = frozenset(
    "DDIMScheduler DDIMInverseScheduler DDIMParallelScheduler DDPMScheduler DDPMParallelScheduler"
    " DPMSolverMultistepScheduler EulerAncestralDiscreteScheduler EulerDiscreteScheduler LCMScheduler TCDScheduler"
    " UniPCMultistepScheduler".split()
)
# Fields about the noise that the model was trained with and about what it predicts, with their defaults.
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

    by_tensors: stated by tensors. They are part of the weights and take precedence over any config.
    by_header: stated by the header. They may be left over from another model.
    whole: the complete config in a file that we wrote; {} if there is none.
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
        """How the header differs from a scheduler's config: "prediction_type is v_prediction, not epsilon", …"""
        whole = {name: self.whole.get(name, default) for name, default in _TRAINING.items()} if self.whole else {}
        ours = {**whole, **self.by_header, **self.by_tensors}
        theirs = {**_TRAINING, **scheduler, **self.by_tensors}
        return [f"{name} is {value}, not {theirs[name]}" for name, value in ours.items() if value != theirs[name]]

    def obeyed(self, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """The scheduler's config, with the fields that the file states in place of its own."""
        config = {**(self.whole or scheduler), **self.by_header, **self.by_tensors}
        if config.get("rescale_betas_zero_snr") is True and config.get("_class_name") not in ZERO_SNR_CLASSES:
            # The class in diffusers would silently ignore the field.
            config["_class_name"] = "DDIMScheduler"
        return config


def read_stated(path: object, keys: Collection[str], metadata: Mapping[str, str]) -> Stated:
    """What the single file at `path` states.

    Raises: UserError if the model predicts neither the noise nor the velocity, if the file contradicts itself, or if
        the model predicts the noise and the last step has no signal.
    """
    by_header = _by_header(path, metadata)
    by_tensors: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in keys else {}
    whole = _whole(path, metadata)
    stated = Stated(by_tensors=by_tensors, by_header=by_header, whole=whole)
    if "ztsnr" in keys:
        if stated.prediction != "v_prediction":
            raise UserError(
                f"{path} has a tensor 'ztsnr' (zero terminal SNR) but no tensor 'v_pred': a model that predicts epsilon"
                " has nothing to predict without a signal. Add 'v_pred', or remove 'ztsnr'"
            )
        by_tensors["rescale_betas_zero_snr"] = True
    return stated


def marker_keys(scheduler: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the empty tensors that tell other programs what the model predicts, and from what noise."""
    if scheduler.get("prediction_type") != "v_prediction":
        return ()
    return ("v_pred", "ztsnr") if scheduler.get("rescale_betas_zero_snr") else ("v_pred",)


def _by_header(path: object, metadata: Mapping[str, str]) -> dict[str, Any]:
    stated = {key: metadata[key] for key in _HEADERS if metadata.get(key)}
    predictions = {_PREDICTIONS.get(value.lower()) for value in stated.values()}
    if None in predictions or len(predictions) > 1:
        shown = ", ".join(f"{key} is {value[:60]!r}" for key, value in stated.items())
        raise UserError(f"the header of {path} says: {shown}; it must be either 'epsilon' or 'v'")
    return {"prediction_type": predictions.pop()} if predictions else {}


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
        raise UserError(f"{path}: {SCHEDULER} in its header is not a scheduler config; save the model again")
    return config
