"""Turns token ids into the text states that the U-Net reads, with one or two text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from blocklora_jax.diffusion.models import Models
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.models.unet import AddedConditions
from blocklora_jax.prompts.chunks import PromptIds

# [b, t], or [b, 2, t] for two text encoders, whose tokenizers pad differently.
Ids = Int[Array | np.ndarray, "b *e t"]
States = Float[Array, "b t d"]


def encode_text(models: Models, params: Mapping[str, Any], ids: Ids) -> TextOutput:
    """Text states [b, t, d] for token ids, and for SDXL the pooled text [b, p].

    models: with vocabularies as large as the token tables; see `with_token_rows`.
    """
    towers = models.text_encoders
    outputs: list[Any] = [
        apply_model(tower, params[name], jnp.asarray(ids_of(ids, name))) for name, tower in towers.items()
    ]
    return join_towers(*outputs)


def encode_prompt(models: Models, params: Mapping[str, Any], prompt: Ids | PromptIds) -> TextOutput:
    """Text states [b, c * t, d] of prompts of c chunks, and for SDXL the pooled text [b, p] of the first chunk.

    The states of a word with the weight w are those of the empty prompt plus w times the difference to them.

    Source: A1111 and compel (chunks); ComfyUI (weights), which equals compel above 1. The pooled text has no weights.
    """
    if not isinstance(prompt, PromptIds):
        return encode_text(models, params, prompt)
    count, rows = prompt.ids.shape[:2]
    text = encode_text(models, params, prompt.ids.reshape(count * rows, *prompt.ids.shape[2:]))
    states = text.states.reshape(count, rows, *text.states.shape[1:])
    if prompt.weights is not None:
        weights = _for_states(models, prompt.weights).astype(states.dtype)
        empty = encode_text(models, params, prompt.empty).states[None]
        # A word of weight 1 keeps its states exactly.
        states = jnp.where(weights == 1, states, empty + weights * (states - empty))
    joined = jnp.moveaxis(states, 0, 1).reshape(rows, -1, states.shape[-1])
    return TextOutput(joined, None if text.pooled is None else text.pooled[:rows])


def join_prompts(*prompts: Ids | PromptIds) -> Any:
    """Prompts, equally many chunks each, as one batch: ids or `PromptIds`."""
    chunked = [prompt for prompt in prompts if isinstance(prompt, PromptIds)]
    if not chunked:
        arrays: list[Any] = list(prompts)
        return jnp.concatenate(arrays)
    ids = [prompt.ids if isinstance(prompt, PromptIds) else prompt[None] for prompt in prompts]
    weights = [prompt.weights if isinstance(prompt, PromptIds) else None for prompt in prompts]
    joined = None
    if any(one is not None for one in weights):
        joined = jnp.concatenate(
            [jnp.ones(each.shape) if one is None else one for one, each in zip(weights, ids, strict=True)], axis=1
        )
    return PromptIds(jnp.concatenate(ids, axis=1), joined, chunked[0].empty)


def join_towers(first: States, second: TextOutput | None = None) -> TextOutput:
    """The outputs of both text encoders: their states side by side, and the pooled text of the second."""
    if second is None:
        return TextOutput(first)
    return TextOutput(jnp.concatenate([first, second.states], axis=-1), second.pooled)


def ids_of(ids: Ids | PromptIds, component: str) -> Int[Array | np.ndarray, "b t"]:
    """The ids [b, t] for one text encoder.

    >>> ids_of(np.array([[[1, 2], [3, 4]]]), "text_encoder_2").tolist()
    [[3, 4]]
    """
    if isinstance(ids, PromptIds):
        ids = ids.ids.reshape(-1, *ids.ids.shape[2:])
    return ids if ids.ndim == 2 else ids[:, int(component == "text_encoder_2")]


def _for_states(
    models: Models, weights: Float[Array | np.ndarray, "c b *e t"]
) -> Float[Array, "c b t 1"] | Float[Array, "c b t d"]:
    """Weights in the shape of the text states. Each text encoder has tokens, and so weights, of its own."""
    weights = jnp.asarray(weights)[..., None]
    if weights.ndim == 4:
        return weights
    sizes = [tower.config.hidden_size for tower in models.text_encoders.values()]
    towers = [
        jnp.broadcast_to(weights[:, :, i], (*weights.shape[:2], weights.shape[3], d)) for i, d in enumerate(sizes)
    ]
    return jnp.concatenate(towers, axis=-1)


def add_sizes(text: TextOutput, size_ids: Float[Array, "b 6"] | None) -> AddedConditions | None:
    """What the U-Net reads besides the text states; None if there is no pooled text."""
    if text.pooled is None or size_ids is None:
        return None
    return AddedConditions(text.pooled, size_ids)


def make_size_ids(
    height: int,
    width: int,
    rows: int,
    original_size: tuple[int, int] | None = None,
    crops_coords_top_left: tuple[int, int] = (0, 0),
    target_size: tuple[int, int] | None = None,
) -> Float[np.ndarray, "rows 6"]:
    """Size ids [rows, 6] (see `AddedConditions`). Sizes that are not given are the picture's height and width.

    >>> make_size_ids(64, 32, 1).tolist()
    [[64.0, 32.0, 0.0, 0.0, 64.0, 32.0]]
    """
    size = (height, width)
    sizes = (*(original_size or size), *crops_coords_top_left, *(target_size or size))
    return np.tile(np.asarray(sizes, np.float32), (rows, 1))
