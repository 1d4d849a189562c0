"""The token side in a training step. It reads the captions, and as many prompts with the token and other words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blocklora_jax.adapters.token_side import (
    counted_energies,
    direction_energies,
    norm_excess,
    token_side_loss,
    token_starts,
)
from blocklora_jax.diffusion.text import ids_of
from blocklora_jax.layouts.token_tables import token_table
from train.concept.batch import Batch
from train.concept.own_directions import ARRAYS
from train.concept.settings.token_side import TokenSideSettings
from train.concept.state import Trainable
from train.concept.text import EncodedRows


def with_own_prompts(batch: Batch) -> Batch:
    """`batch` with its own prompts behind the captions, so that all are encoded in one pass."""
    if batch.own_prompts is None:
        return batch
    # There are as many own prompts as captions, and they are padded alike.
    weights = None if batch.row_weights is None else jnp.tile(jnp.asarray(batch.row_weights), 2)
    ids = jnp.concatenate([jnp.asarray(batch.ids), jnp.asarray(batch.own_prompts.ids)])
    return batch._replace(ids=ids, row_weights=weights)


def without_own_prompts(text: EncodedRows, rows: int) -> EncodedRows:
    """`text` with only the first `rows` of the concept's rows."""
    return text._replace(concept=jax.tree.map(lambda x: x[:rows], text.concept))


class TokenEnergies(NamedTuple):
    """Mean energies along the directions of the basis, fp32 [d]: from the token on, and at the token's own positions.

    at_token: None unless own energy is measured there.
    """

    from_token: Float[Array, " d"]
    at_token: Float[Array, " d"] | None


def token_energies(
    settings: TokenSideSettings, states: Float[Array, "b t d"], batch: Batch, params: Mapping[str, Any]
) -> TokenEnergies:
    """The energies of the rows of `batch`, as `with_own_prompts` gives it. states: of its rows."""
    assert batch.ids is not None
    arrays, start = params[ARRAYS], token_starts(ids_of(batch.ids, "text_encoder"), len(token_table(params)))
    energies = direction_energies(states, start, arrays.whitened, batch.row_weights)
    if settings.token_side_own != "token":
        return TokenEnergies(energies, None)
    called = jnp.asarray(ids_of(batch.ids, "text_encoder")) >= len(token_table(params))
    return TokenEnergies(energies, counted_energies(states, called, arrays.whitened, batch.row_weights))


def token_term(
    settings: TokenSideSettings,
    states: Float[Array, "b t d"],
    batch: Batch,
    trainable: Trainable,
    params: Mapping[str, Any],
    means: TokenEnergies | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """mu times the hinge, plus the penalty for long embeddings; and metrics.

    To be called within a map over the axis "data". The metrics are token_loss (that sum) and token_ratio (own /
    others). batch: as `with_own_prompts` gives it. states: of its rows. means: energies of the whole batch, over all
    devices, if `batch` is a part of it.
    """
    assert batch.own_prompts is not None
    arrays, energies = params[ARRAYS], token_energies(settings, states, batch, params)
    if means is None:
        means = jax.tree.map(lambda x: jax.lax.pmean(x, "data"), energies)
    energies, at_token = jax.tree.map(_with_value, energies, means)
    hinge, ratio = token_side_loss(energies, batch.own_prompts.owned[0], settings.token_side_margin, at_token)
    excess = sum(
        norm_excess(trainable.tokens_of(part), natural, settings.token_norm_limit)
        for part, natural in arrays.natural.items()
    )
    loss = settings.token_side * hinge + excess
    return loss, {"token_loss": loss, "token_ratio": ratio}


def _with_value(energies: Float[Array, " d"], mean: Float[Array, " d"]) -> Float[Array, " d"]:
    """`mean`, with the gradient of `energies`. The mean is over all rows, because a logarithm is taken of it.

    The step averages the gradients over devices, and over the parts of a batch.
    """
    return energies + jax.lax.stop_gradient(mean - energies)
