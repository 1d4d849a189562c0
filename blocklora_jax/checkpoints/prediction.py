"""What a single file says of its schedule: by its header, or by tensors whose names alone are read.

| where | says |
|---|---|
| a tensor `v_pred` | the model predicts the velocity; ComfyUI obeys it in SDXL |
| a tensor `ztsnr` beside it | its last training step has no signal (`rescale_betas_zero_snr`) |
| `modelspec.prediction_type` | "v" or "epsilon"; sd-scripts writes it, programs that copy headers may leave it behind |
| `blocklora.scheduler` | the whole `scheduler_config.json`, in files of our own |
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from blocklora_jax.errors import UserError

SCHEDULER = "blocklora.scheduler"
CONFIG = "blocklora.config"
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

    Raises: UserError if it says that there is nothing to predict: no signal at the last step, and the noise for an answer.
    """
    by_header = {}
    if (predicts := metadata.get("modelspec.prediction_type")) in ("v", "epsilon"):
        by_header["prediction_type"] = "v_prediction" if predicts == "v" else "epsilon"
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


def _whole(path: object, metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get(SCHEDULER)
    if text is None:
        return {}
    try:
        config = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path}: its header's {SCHEDULER} is no scheduler config; save the model again")
    return config
