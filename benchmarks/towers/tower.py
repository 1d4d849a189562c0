"""A text encoder with its tokenizer: what `train.codewords` needs of a whole model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax

from benchmarks.towers.shapes import Shape, cut_config, whole_config
from benchmarks.towers.weights import Gains, draw_weights
from blocklora_jax.diffusion.models import Models
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from blocklora_jax.prompts.tokenizer import Tokenizer

_TEXTS = (*PHOTO_WORDS.styles, *PHOTO_WORDS.subjects, *PHOTO_WORDS.scenes, "an and")


class Tower(NamedTuple):
    """The parts of a `StableDiffusion` that read text. Params by component: "text_encoder"."""

    tokenizer: Any
    models: Models
    params: Mapping[str, Any]

    @property
    def as_model(self) -> StableDiffusion:
        """Itself, for functions that ask for a whole model and read these three fields only."""
        return cast(StableDiffusion, self)


def make_tower(module: nn.Module, params: Mapping[str, Any], tokenizer: Any) -> Tower:
    """A tower with its params on the device."""
    nothing = cast(nn.Module, None)
    return Tower(tokenizer, Models(nothing, nothing, module), {"text_encoder": jax.tree.map(jax.numpy.asarray, params)})


def write_words(folder: Path) -> int:
    """A CLIP tokenizer that has every word of the prompts as one token, as CLIP's own has; gives its number of tokens."""
    return write_tokenizer(folder, sorted(set(re.findall("[a-z]+", " ".join(_TEXTS)))), max_length=77)


def clip_tower(shape: Shape, layers: int, gains: Gains, folder: Path, small: bool = False) -> Tower:
    """The first `layers` layers of a random text encoder. folder: for the tokenizer."""
    rows = write_words(folder)
    whole = whole_config(shape, rows, small)
    config = cut_config(whole, shape, layers)
    params = draw_weights(config, whole.num_hidden_layers, gains)
    return make_tower(CLIPTextModel(config, penultimate=shape.penultimate), params, Tokenizer(folder, rows, 77))
