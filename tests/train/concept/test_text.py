"""The text of a step for two text encoders. Each has its own tokens, negative tokens, layers and padding."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from concept_builders import make_batch

import merge
from blocklora_jax.diffusion.models import token_table, with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import TOKENS, tiny_models, tiny_params
from train.concept.state import Trainable
from train.concept.text import encode_rows, with_table

ROWS = 40
PARAMS = jax.tree.map(jnp.asarray, tiny_params(ROWS, levels=1, family="sdxl"))
MODELS = tiny_models(ROWS, levels=1, family="sdxl")


@jax.jit
def encode(params, ids):
    return encode_text(with_token_rows(MODELS, params), params, ids)


def with_two_encoders(batch):
    """The batch with other ids for the second text encoder than for the first. Prompts end at their end token."""
    rng = np.random.default_rng(8)

    def ids(first):
        second = jnp.where(first < ROWS, rng.integers(0, ROWS - 2, first.shape), first)
        return jnp.stack([first, second], 1).at[:, :, -1].set(ROWS - 1)

    tokens = {
        part: jnp.asarray(
            rng.normal(0, 0.5, (len(batch.random_ids), 2, token_table(PARAMS, part).shape[1])), jnp.float32
        )
        for part in MODELS.text_encoders
    }
    return batch._replace(ids=ids(batch.ids), random_ids=ids(batch.random_ids), random_tokens=tokens)


def test_rows_are_encoded_as_by_the_merged_model_and_as_by_the_base():
    adapter = random_adapter("ada", PARAMS, slots=(1,), layers="text_encoder")
    trainable = Trainable(adapter.lora, jnp.asarray(adapter.tokens["<ada>"]), jnp.asarray(adapter.tokens_2["<ada>"]))
    batch, count = with_two_encoders(make_batch(2, 2)), 2
    assert batch.ids.shape == (2, 2, 6) and TOKENS >= 6
    text = jax.jit(partial(encode_rows, MODELS, PARAMS, adapter.lora, adapter.info.scale))(trainable, batch)
    merged = merge.compose(PARAMS, [adapter], check_base=False)
    for i in range(count):
        expected = encode(merged, batch.ids[i : i + 1])
        assert_close(jax.tree.map(lambda x, i=i: x[i : i + 1], text.concept), expected)
        # Only the negative token of this row, with the ids that follow those of the concept.
        with_negative_token = [add_negative_token(params, i, batch) for params in (merged, merge_tokens(adapter))]
        for got, params in zip((text.random, text.base), with_negative_token, strict=True):
            ids = batch.random_ids[i : i + 1]
            expected = encode(params, ids)
            assert_close(jax.tree.map(lambda x, i=i: x[i : i + 1], got), expected)
    assert text.energies.shape == (len(adapter.lora["text_encoder"]) + len(adapter.lora["text_encoder_2"]), 2)


def merge_tokens(adapter):
    """The base with the concept's token rows, but without its layers."""
    params = with_table(PARAMS, jnp.concatenate([token_table(PARAMS), adapter.tokens["<ada>"]]))
    longer = jnp.concatenate([token_table(PARAMS, "text_encoder_2"), adapter.tokens_2["<ada>"]])
    return with_table(params, longer, "text_encoder_2")


def add_negative_token(params, row, batch):
    for part in MODELS.text_encoders:
        longer = jnp.concatenate([token_table(params, part), batch.random_tokens[part][row]])
        params = with_table(params, longer, part)
    return params


def assert_close(got, expected):
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # fp32: one side adds the low-rank product to the layer's output, the other to its weight.
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(jnp.abs(theirs).max()))
