"""Concept tokens as textual-inversion safetensors, which diffusers' `load_textual_inversion` reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from blocklora_jax.checks.finite import narrow
from blocklora_jax.errors import UserError

_TOKEN = re.compile(r"<([\w-]+)>")


def embedding_tensors(
    token: str,
    vectors: Float[np.ndarray, "v d"],
    dtype: np.dtype,
    vectors_2: Float[np.ndarray, "v d2"] | None = None,
) -> dict[str, np.ndarray]:
    """{"<name>": [v, d]}: one token a file, because diffusers does not read a file of several tensors as tokens.

    With vectors_2, for the second text encoder of SDXL: {"clip_l": [v, d], "clip_g": [v, d2]}. diffusers does not load
    both at once; load each with a call:
    `load_textual_inversion(state["clip_g"], token, text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)`.
    Published SDXL configs have the wrong `eos_token_id` 2. With it, PyTorch pools the prompt at a concept token instead
    of its end. Set `pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id` first. Folders that we
    save have the right id.

    Source: diffusers 0.42 `TextualInversionLoaderMixin._retrieve_tokens_and_embeddings`.
    """
    if vectors_2 is None:
        return {token: narrow(token, vectors, dtype)}
    return {"clip_l": narrow("clip_l", vectors, dtype), "clip_g": narrow("clip_g", vectors_2, dtype)}


def a1111_tensors(
    vectors: Float[np.ndarray, "v d"], dtype: np.dtype, vectors_2: Float[np.ndarray, "v d2"] | None = None
) -> dict[str, np.ndarray]:
    """The same vectors as A1111 and ComfyUI read them: {"emb_params": [v, d]}; for SDXL "clip_l" and "clip_g".

    In these programs the file's name is the word to write in a prompt.
    """
    return embedding_tensors("emb_params", vectors, dtype, vectors_2)


def embedding_path(lora_path: str | Path, token: str) -> Path:
    """The path of a token's file: `merged.safetensors` and "<ada>" give `merged.ada.safetensors`.

    Raises UserError if the token is not `<name>`.
    """
    name = _TOKEN.fullmatch(token)
    if name is None:
        raise UserError(f"token {token!r} cannot name a file: it must be '<name>' of letters, digits, '-' and '_'")
    return Path(lora_path).with_suffix(f".{name[1]}.safetensors")
