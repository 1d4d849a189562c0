"""Encodes many prompts, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from blocklora_jax.diffusion.models import Models, with_token_rows
from blocklora_jax.diffusion.text import Ids, encode_text
from blocklora_jax.models.clip_text import TextOutput


def encode_in_chunks(models: Models, params: Mapping[str, Any], ids: Ids, chunk: int = 16) -> Iterator[TextOutput]:
    """The text of `chunk` prompts at a time, fp32 in the host's memory; the last chunk may have fewer.

    models: with vocabularies of any size. params: with the text encoders, whose token tables are as long as `ids` need.
    ids: int32 [p, t], or [p, 2, t] for two text encoders.
    """
    # NumPy parameters would be copied to the device for every chunk.
    towers = {part: jax.device_put(params[part]) for part in models.text_encoders}
    models = with_token_rows(models, towers)
    for first in range(0, len(ids), chunk):
        # The last chunk is filled up with the first prompts, so that all share one compiled program.
        filled = np.take(ids, range(first, first + chunk), axis=0, mode="wrap")
        text = _encode(models, towers, filled)
        yield jax.tree.map(lambda x, first=first: np.asarray(x, np.float32)[: len(ids) - first], text)


def join_chunks(chunks: Iterator[TextOutput]) -> TextOutput:
    """The chunks as one, with all prompts."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)


# A function of the module, so that it is compiled once for all concepts of one model.
@partial(jax.jit, static_argnums=0)
def _encode(models: Models, towers: Mapping[str, Any], ids: Ids) -> TextOutput:
    return encode_text(models, towers, ids)
