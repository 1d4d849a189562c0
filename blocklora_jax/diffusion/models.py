"""The Flax modules of a Stable Diffusion model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from blocklora_jax.checks.bounds import check_number
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.models.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL


class Models(NamedTuple):
    """The modules. They are hashable, so that compiled functions are reused. Only SDXL has a second text encoder."""

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    text_encoder_2: nn.Module | None = None

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        """The one or two text encoders, by component."""
        towers = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return {name: tower for name, tower in towers.items() if tower is not None}


def make_models(
    configs: Mapping[str, Any], dtype: DTypeLike = jnp.float32, remat: bool = False, attention: AttentionForm = "auto"
) -> Models:
    """The modules for `configs` (by component). dtype, remat: see `UNet2DConditionModel`. attention: see `attend`."""
    second = configs.get("text_encoder_2")
    return Models(
        UNet2DConditionModel(configs["unet"], dtype=dtype, remat=remat, form=attention),
        AutoencoderKL(configs["vae"], dtype=dtype, form=attention),
        CLIPTextModel(configs["text_encoder"], dtype=dtype, penultimate=second is not None),
        None if second is None else CLIPTextModelWithProjection(second, dtype=dtype),
    )


def with_token_rows(models: Models, params: Mapping[str, Any]) -> Models:
    """The models, with vocabularies as large as the token tables in `params`. Concept tokens add rows to these."""
    longer = {}
    for name, tower in models.text_encoders.items():
        rows = token_table(params, name).shape[0]
        if rows != tower.config.vocab_size:
            longer[name] = tower.clone(config=dataclasses.replace(tower.config, vocab_size=rows))
    return models._replace(**longer)


def with_clip_skip(models: Models, skip: int) -> Models:
    """The models, with text encoders that leave out their last `skip` layers, besides the one that SDXL leaves out.

    Raises: UserError for more layers than there are.

    Source: diffusers' `clip_skip`; in A1111 the number is one larger.
    """
    check_number("clip_skip", skip)
    fewest = min(tower.config.num_hidden_layers for tower in models.text_encoders.values())
    if skip >= fewest:
        raise UserError(f"clip_skip {skip} leaves out the whole text encoder, which has {fewest} layers")
    return models._replace(**{name: tower.clone(skip=skip) for name, tower in models.text_encoders.items()})
