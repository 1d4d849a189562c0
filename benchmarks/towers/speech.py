"""own / others of tokens in a text encoder, by where in the prompt it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from benchmarks.towers.tower import Tower
from blocklora_jax.adapters.token_side import counted_energies, log_ratio, own_and_others, token_starts
from blocklora_jax.diffusion.models import token_table, with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.prompts.random_prompts import NEGATIVE
from train.codewords import slot_masks
from train.concept.text import with_table

_PART = "text_encoder"


class Heard(NamedTuple):
    """Positions [p, t] of prompts. onward: from the token on, as training counts them. token: its own. prompt: the real
    ones after it. padding: after the prompt's end. before: those that a causal text encoder cannot change.
    """

    onward: Bool[np.ndarray, "p t"]
    token: Bool[np.ndarray, "p t"]
    prompt: Bool[np.ndarray, "p t"]
    padding: Bool[np.ndarray, "p t"]
    before: Bool[np.ndarray, "p t"]


def heard_positions(ids: Int[np.ndarray, "p t"], rows: int) -> Heard:
    """Where a token is heard. rows: of the table without it. A prompt ends at its last padding id's first repeat."""
    onward = np.arange(ids.shape[1])[None] >= np.asarray(token_starts(ids, rows))[:, None]
    token = ids >= rows
    # All end with the same id; CLIP's end token may be that id too, and is the first of its row.
    trailing = np.cumprod((ids == ids[:, -1:])[:, ::-1], axis=1)[:, ::-1].astype(bool)
    return Heard(onward, token, onward & ~token & ~trailing, trailing, ~onward)


def ratios_by_position(
    tower: Tower,
    tokens: Float[np.ndarray, "s v d"],
    slots: Sequence[int],
    num_blocks: int,
    whitened: Float[np.ndarray, "d d"],
    prompts: Sequence[str],
) -> dict[str, Float[np.ndarray, " s"]]:
    """own / others of each slot's token, by the fields of `Heard`. A slot has the row of `tokens` with its index."""
    ids = tower.tokenizer.encode(prompts, {NEGATIVE: tokens.shape[1]})
    heard, owned = heard_positions(ids, tower.table_rows), slot_masks(num_blocks, len(whitened))
    found = []
    measure = jax.jit(lambda params, token: _energies(tower, params, token, ids, heard, whitened))
    for slot, token in zip(slots, tokens, strict=True):
        found.append([own_over_others(each, owned[slot]) for each in measure(tower.params, token)])
    return dict(zip(Heard._fields, np.array(found).T, strict=True))


def ordinary_energies(
    tower: Tower, whitened: Float[np.ndarray, "d d"], prompts: Sequence[str]
) -> Float[np.ndarray, " d"]:
    """e_d of prompts without the token, from the place where it stood: about 1 along each direction."""
    ids = tower.tokenizer.encode(prompts, {NEGATIVE: 1})
    starts = np.asarray(token_starts(ids, tower.table_rows))
    plain = tower.tokenizer.encode([text.replace(f"{NEGATIVE} ", "").replace(NEGATIVE, "") for text in prompts])
    onward = np.arange(ids.shape[1])[None] >= starts[:, None]
    encode = jax.jit(lambda params: counted_energies(encode_text(tower.models, params, plain).states, onward, whitened))
    return np.asarray(encode(tower.params))


def own_over_others(energies: Float[Array | np.ndarray, " d"], owned: Bool[np.ndarray, " d"]) -> float:
    """The ratio that the hinge of the token side reads."""
    return float(jnp.exp(-log_ratio(*own_and_others(jnp.asarray(energies), owned))))


def _energies(
    tower: Tower, params: dict, token: Array, ids: Int[np.ndarray, "p t"], heard: Heard, whitened: np.ndarray
) -> list[Array]:
    longer = with_table(params, jnp.concatenate([token_table(params, _PART), token]), _PART)
    states = encode_text(with_token_rows(tower.models, longer), longer, ids).states
    return [_mean_energies(states, counted, whitened) for counted in heard]


def _mean_energies(states: Array, counted: Bool[np.ndarray, "p t"], whitened: np.ndarray) -> Array:
    """Over the prompts that have counted positions."""
    rows = np.flatnonzero(counted.any(1))
    if not len(rows):
        return jnp.full(whitened.shape[1], jnp.nan)
    return counted_energies(states[rows], counted[rows], whitened)
