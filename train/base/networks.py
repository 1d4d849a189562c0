"""The configs of the pocket model's networks, with the channels that a run chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.models.config import UNetConfig, VAEConfig
from blocklora_jax.pocket import architecture
from train.base.config import BaseConfig


def unet_config(config: BaseConfig) -> UNetConfig:
    """Raises: UserError for channels that do not fit."""
    return UNetConfig.from_json(
        _with_channels(architecture.UNET, config.unet_channels, "--unet-channels"), "pocket unet"
    )


def vae_config(config: BaseConfig) -> VAEConfig:
    """Raises: UserError for channels that do not fit."""
    return VAEConfig.from_json(_with_channels(architecture.VAE, config.vae_channels, "--vae-channels"), "pocket vae")


def _with_channels(raw: Mapping[str, Any], channels: tuple[int, ...] | None, flag: str) -> dict[str, Any]:
    if channels is None:
        return dict(raw)
    levels, groups = len(raw["block_out_channels"]), raw["norm_num_groups"]
    if len(channels) != levels or any(count % groups for count in channels):
        raise UserError(f"{flag} takes {levels} multiples of {groups}, not {' '.join(map(str, channels))}")
    return {**raw, "block_out_channels": list(channels)}
