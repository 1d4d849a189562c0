"""Published models at full size as shapes: nothing is computed, and no weights are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.diffusion.models import Models, make_models
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.models.attention_form import AttentionForm
from blocklora_jax.testing.random_folder import read_configs

# Height and width of each model's pictures, in pixels.
SIZES = {"sd15": 512, "sd21": 768, "sdxl": 1024}
# Positions of a prompt.
LENGTH = 77


@dataclass(frozen=True)
class FullSize:
    """models: its modules. params: the shapes of its parameters, by component. size: of its pictures."""

    models: Models
    params: dict[str, Any]
    size: int

    @property
    def side(self) -> int:
        """Height and width of the latents."""
        return self.size // self.models.vae.config.downscale

    @property
    def text_width(self) -> int:
        """Number of text features that the U-Net reads."""
        return self.models.unet.config.cross_attention_dim

    @property
    def pooled_width(self) -> int | None:
        """Width of the prompt as one vector; None for models that do not read it."""
        second = self.models.text_encoder_2
        return None if second is None else second.config.projection_dim


def full_size(
    name: str, *, size: int | None = None, dtype: Any = jnp.float32, remat: bool = False,
    attention: AttentionForm = "auto",
) -> FullSize:  # fmt: skip
    """The model `name`, a key of `SIZES`. size: of pictures, the model's own if not given."""
    found: dict[str, Any] = {part: CONFIGS[part].from_json(values, part) for part, values in read_configs(name).items()}
    size = size or SIZES[name]
    found["unet"] = replace(found["unet"], sample_size=size // found["vae"].downscale)
    params = {
        part: unflatten_params({p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in param_shapes(config).items()})
        for part, config in found.items()
    }
    return FullSize(make_models(found, dtype, remat, attention), params, size)
