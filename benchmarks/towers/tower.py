"""A text encoder with its tokenizer: what `train.codewords` needs of a whole model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax

from benchmarks.towers.shapes import Shape, whole_config
from benchmarks.towers.stacked import StackedText
from benchmarks.towers.weights import Gains, draw_weights
from blocklora_jax.diffusion.models import Models
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.tokenizer import write_tokenizer
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from blocklora_jax.prompts.tokenizer import Tokenizer

_TEXTS = (*PHOTO_WORDS.styles, *PHOTO_WORDS.subjects, *PHOTO_WORDS.scenes, "an and")


class Tower(StableDiffusion):
    """A Stable Diffusion of which there is only what reads text. Params by component: "text_encoder"."""

    def __init__(self, tokenizer: Tokenizer, models: Models, params: Mapping[str, Any]):
        # The class is frozen, and its other fields are missing.
        for name, value in (("tokenizer", tokenizer), ("models", models), ("params", params)):
            object.__setattr__(self, name, value)

    @property
    def table_rows(self) -> int:
        """Tokens of the text encoder without concept tokens."""
        return cast(Tokenizer, self.tokenizer).table_rows


def make_tower(module: nn.Module, params: Mapping[str, Any], tokenizer: Tokenizer) -> Tower:
    """A tower with its params on the device."""
    nothing = cast(nn.Module, None)
    return Tower(tokenizer, Models(nothing, nothing, module), {"text_encoder": jax.tree.map(jax.numpy.asarray, params)})


def write_words(folder: Path) -> int:
    """A CLIP tokenizer with every word of the prompts as one token, as in CLIP's own; gives its number of tokens."""
    return write_tokenizer(folder, sorted(set(re.findall("[a-z]+", " ".join(_TEXTS)))), max_length=77)


def clip_tower(shape: Shape, layers: int, gains: Gains, folder: Path, small: bool = False) -> Tower:
    """The first `layers` layers of a random text encoder. folder: for the tokenizer."""
    rows = write_words(folder)
    whole = whole_config(shape, rows, small)
    params = draw_weights(whole, layers, gains)
    return make_tower(StackedText(whole, shape.has_final_norm), params, Tokenizer(folder, rows, 77))
