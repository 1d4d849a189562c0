"""The text of a training step: rows are encoded with the concept's embeddings or with those of a negative token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blocklora_jax.adapters.apply import apply_adapted
from blocklora_jax.diffusion.models import Models, with_token_rows
from blocklora_jax.diffusion.text import ids_of, join_towers
from blocklora_jax.layouts.low_rank import LoRATree
from blocklora_jax.layouts.token_tables import token_table, with_token_table
from blocklora_jax.models.apply import apply_model
from train.concept.batch import Batch, Rows
from train.concept.state import Trainable


class EncodedRows(NamedTuple):
    """concept, random: rows encoded with the adapter. base: the random rows without it. energies: of the layers."""

    concept: Any
    random: Any
    base: Any
    energies: Float[Array, "layers r"]


def encode_rows(
    models: Models,
    params: Mapping[str, Any],
    lora: LoRATree,
    scale: float,
    trainable: Trainable,
    batch: Batch,
) -> EncodedRows:
    """The outputs of all text encoders for the batch. Rows whose text is already encoded are not encoded again."""
    rows, concept = len(batch.random_row), None if batch.text is None else jax.tree.map(jnp.asarray, batch.text)
    if concept is None:
        towers = [
            _encode_tower(name, models, params, lora, scale, trainable.tokens_of(name), batch)
            for name in models.text_encoders
        ]
        concept = join_towers(*(tower.concept for tower in towers))
        if batch.random_text is None:
            return EncodedRows(
                concept,
                join_towers(*(tower.random for tower in towers)),
                join_towers(*(tower.base for tower in towers)),
                jnp.concatenate([tower.energies for tower in towers]),
            )
    random = jax.tree.map(jnp.asarray, batch.random_text)
    return EncodedRows(concept, random, random, jnp.zeros((0, rows)))


def _encode_tower(
    component: str,
    models: Models,
    params: Mapping[str, Any],
    lora: LoRATree,
    scale: float,
    tokens: Array,
    batch: Batch,
) -> EncodedRows:
    """The outputs of one text encoder for the batch. The negative token of each random row has its own embeddings."""
    assert batch.ids is not None
    rows, table = len(batch.random_row), token_table(params, component)
    ids, longer = jnp.asarray(ids_of(batch.ids, component)), [table, tokens]
    if batch.random_ids is None or batch.random_tokens is None:
        random_ids = ids[:0]
    else:
        longer.append(jnp.asarray(batch.random_tokens[component]).reshape(-1, table.shape[1]))
        random_ids = ids_by_row(ids_of(batch.random_ids, component), len(table) + len(tokens), len(tokens))
    params = with_table(params, jnp.concatenate(longer), component)
    tower = with_token_rows(models, params).text_encoders[component]
    all_ids, random_count = jnp.concatenate([ids, random_ids]), len(random_ids)
    adapted, energies = apply_adapted(
        tower, params[component], lora.get(component, {}), scale, all_ids, random_rows=random_count
    )
    concept, random = (jax.tree.map(lambda x, of=of: x[of], adapted) for of in (slice(len(ids)), slice(len(ids), None)))
    # Without random rows (erase none) the base need not run.
    base = apply_model(tower, params[component], random_ids) if random_count and component in lora else random
    return EncodedRows(concept, random, base, energies if random_count else jnp.zeros((0, rows)))


def ids_by_row(ids: Int[Rows, "r t"], first: int, vectors: int) -> Int[Array, "r t"]:
    """`ids` of the random rows, changed so that the negative token of each row has its own ids.

    first: the first id of negative tokens. vectors: number of embeddings of a token.
    """
    shift = jnp.arange(len(ids))[:, None] * vectors
    return jnp.where(ids >= first, ids + shift, ids)


def with_table(params: Mapping[str, Any], table: Array, component: str = "text_encoder") -> dict[str, Any]:
    """`params` with another token table of a text encoder."""
    return {**params, component: with_token_table(params[component], table)}
