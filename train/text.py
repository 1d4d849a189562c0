"""The text of a training step: every row encoded with the concept's own embeddings, or with a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from blocklora_jax.adapters.apply import apply_adapted
from blocklora_jax.adapters.lora import LoRATree
from blocklora_jax.diffusion.models import Models, token_table, with_token_rows
from blocklora_jax.diffusion.text import ids_of, join_towers
from blocklora_jax.models.apply import apply_model
from train.batch import Batch, Rows
from train.state import Trainable


class Strangers(NamedTuple):
    """How far foreign tokens are from their nouns: `spread` deviations of the token table, where new tokens start; or, with
    `follow`, as far as the concept's own tokens have come since, as other people's will have.
    """

    spread: float
    follow: bool

    def deviation(self, table: Float[Array, "n d"], own: Float[Array, "v d"]) -> Array:
        """In the units of the table."""
        start = self.spread * table.std()
        if not self.follow or not own.size:
            return start
        # What is far from a row of the table is longer than it by its distance: directions are nearly orthogonal.
        grown = jax.lax.stop_gradient(jnp.mean(jnp.square(own))) - jnp.mean(jnp.square(table))
        return jnp.sqrt(jnp.maximum(jnp.square(start), grown))


class EncodedRows(NamedTuple):
    """The concept's rows and the random ones under the adapter; the random ones under the base; the layers' energies."""

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
    strangers: Strangers,
    key: PRNGKeyArray,
) -> EncodedRows:
    """What all text encoders make of the batch."""
    if batch.text is not None and batch.random_text is not None:
        concept, random = (jax.tree.map(jnp.asarray, text) for text in (batch.text, batch.random_text))
        return EncodedRows(concept, random, random, jnp.zeros((0, len(batch.random_row))))
    towers = [
        _encode_tower(name, models, params, lora, scale, trainable.tokens_of(name), batch, strangers, key)
        for name in models.text_encoders
    ]
    return EncodedRows(
        join_towers(*(tower.concept for tower in towers)),
        join_towers(*(tower.random for tower in towers)),
        join_towers(*(tower.base for tower in towers)),
        jnp.concatenate([tower.energies for tower in towers]),
    )


def _encode_tower(
    component: str,
    models: Models,
    params: Mapping[str, Any],
    lora: LoRATree,
    scale: float,
    tokens: Array,
    batch: Batch,
    strangers: Strangers,
    key: PRNGKeyArray,
) -> EncodedRows:
    """What one text encoder makes of the batch, in which every random row's stranger has embeddings of its own."""
    assert batch.ids is not None and batch.random_ids is not None and batch.random_nouns is not None
    rows, table = len(batch.random_row), token_table(params, component)
    key = tower_key(key, component)
    deviation = strangers.deviation(table, tokens)
    foreign = foreign_embeddings(table, batch.random_nouns, batch.random_row, len(tokens), deviation, key)
    params = with_table(params, jnp.concatenate([table, tokens, foreign.reshape(-1, table.shape[1])]), component)
    tower = with_token_rows(models, params).text_encoders[component]
    ids = ids_of(batch.ids, component)
    random_ids = own_foreign_ids(ids_of(batch.random_ids, component), len(table) + len(tokens), len(tokens))
    if component in lora:
        both = jnp.concatenate([ids, random_ids])
        adapted, energies = apply_adapted(tower, params[component], lora[component], scale, both, random_rows=rows)
        concept = jax.tree.map(lambda x: x[: len(ids)], adapted)
        random = jax.tree.map(lambda x: x[len(ids) :], adapted)
    else:
        # Apart from each other: nothing is trained through the random rows.
        concept, random, energies = apply_model(tower, params[component], jnp.asarray(ids)), None, jnp.zeros((0, rows))
    # Without random rows (erase none) there is nothing to run the base on.
    base = apply_model(tower, params[component], random_ids) if rows else jax.tree.map(lambda x: x[:0], concept)
    return EncodedRows(concept, base if random is None else random, base, energies)


def tower_key(key: PRNGKeyArray, component: str) -> PRNGKeyArray:
    """Each text encoder's embeddings are drawn from a key of their own."""
    return jax.random.fold_in(key, 3) if component == "text_encoder_2" else key


def foreign_embeddings(
    table: Float[Array, "n d"],
    nouns: Int[Rows, " r"],
    row: Rows,
    vectors: int,
    deviation: float | Array,
    key: PRNGKeyArray,
) -> Float[Array, "r v d"]:
    """Embeddings of tokens that other people's concepts could have: around the noun's, each number `deviation` off."""

    def draw(noun: Array, row: Array) -> Array:
        row_key = jax.random.fold_in(jax.random.fold_in(key, 2), row)
        return table[noun][None] + deviation * jax.random.normal(row_key, (vectors, table.shape[1]))

    return jax.vmap(draw)(jnp.asarray(nouns), jnp.asarray(row))


def own_foreign_ids(ids: Int[Rows, "r t"], first: int, vectors: int) -> Int[Array, "r t"]:
    """`ids` where every row's foreign token is its own: from `first` on they name the first row's, `vectors` a row."""
    shift = jnp.arange(len(ids))[:, None] * vectors
    return jnp.where(ids >= first, ids + shift, ids)


def with_table(params: Mapping[str, Any], table: Array, component: str = "text_encoder") -> dict[str, Any]:
    """`params` with another token table of a text encoder."""
    text = params[component]["text_model"]
    embeddings = {**text["embeddings"], "token_embedding": {"embedding": table}}
    return {**params, component: {**params[component], "text_model": {**text, "embeddings": embeddings}}}
