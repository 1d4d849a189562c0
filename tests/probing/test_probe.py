"""The inputs of layers while pictures are generated."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import merge
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.probing.probe import Probe, own_tokens, reads_text, with_tokens
from blocklora_jax.testing.random_adapter import random_adapter

ATTENTION = "unet/down_blocks_0/attentions_0/transformer_blocks_0"
TEXT, PICTURE, TOWER = (
    f"{ATTENTION}/attn2/to_k", f"{ATTENTION}/attn1/to_v", "text_encoder/text_model/encoder/layers/1/self_attn/q_proj",
)  # fmt: skip
PROMPTS = ["a photo of <ada> man", "a drawing of <ada> man in the snow"]


def moments(layer, x, y, context):
    return {"gram": x.T @ x, "rows": jnp.float32(len(x)), "cross": x.T @ y}


def close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_layers_read_the_same_as_with_fused_weights(tiny_sd):
    adapter = random_adapter("ada", tiny_sd.params, slots=(1,), size=0.3)
    ids = tiny_sd.tokenizer.encode(PROMPTS, token_counts([adapter]))
    probe = Probe(tiny_sd, frozenset((TEXT, PICTURE, TOWER)), moments, steps=2, chunk=2)
    params = with_tokens(tiny_sd.params, own_tokens(tiny_sd, adapter))
    adapted, base = probe(params, adapter, ids), probe(params, None, ids)
    merged = merge.compose(tiny_sd.params, [adapter])
    fused = probe(merged, None, ids)
    for layer in (TEXT, PICTURE, TOWER):
        close(adapted[layer]["gram"], fused[layer]["gram"], 1e-5)
        assert np.abs(adapted[layer]["gram"] - base[layer]["gram"]).max() > 1e-3 * np.abs(base[layer]["gram"]).max()
        kernel = tiny_sd.params
        for name in (*layer.split("/"), "kernel"):
            kernel = kernel[name]
        # y is the base's output, without the adapter and without the bias that layers of text encoders have.
        close(adapted[layer]["cross"], adapted[layer]["gram"] @ np.asarray(kernel, np.float64), 1e-5)
    states = np.asarray(encode_text(with_token_rows(tiny_sd.models, merged), merged, ids).states).reshape(-1, 32)
    close(adapted[TEXT]["gram"], states.T @ states, 1e-5)
    tokens = ids.size
    assert (adapted[TEXT]["rows"], adapted[TOWER]["rows"]) == (tokens, tokens)
    assert adapted[PICTURE]["rows"] == 2 * len(PROMPTS) * 64  # steps x pictures x positions


def test_an_adapter_of_weight_0_is_the_base_and_needs_no_other_program(tiny_sd):
    adapter = random_adapter("ada", tiny_sd.params, slots=(1,), size=0.3)
    ids = tiny_sd.tokenizer.encode(PROMPTS, token_counts([adapter]))
    probe = Probe(tiny_sd, frozenset((TEXT, PICTURE, TOWER)), moments, steps=2, chunk=2)
    params = with_tokens(tiny_sd.params, own_tokens(tiny_sd, adapter))
    base = probe(params, None, ids)
    assert [step._cache_size() for step in (probe.text_step, probe.unet_step)] == [1, 1]
    adapted, without = probe(params, adapter, ids), probe(params, adapter, ids, weight=0.0)
    assert [step._cache_size() for step in (probe.text_step, probe.unet_step)] == [2, 2]
    for layer, record in base.items():
        for name, expected in record.items():
            # Another program may add in another order, in fp32.
            close(without[layer][name], expected, 1e-6)
        assert np.abs(adapted[layer]["gram"] - record["gram"]).max() > 1e-3 * np.abs(record["gram"]).max()


def test_a_last_chunk_may_be_smaller(tiny_sd):
    ids = tiny_sd.tokenizer.encode(["a photo of a man", "a drawing of a dog", "an owl in the snow"])
    two, three = (
        Probe(tiny_sd, frozenset((TEXT, TOWER)), moments, chunk=chunk)(tiny_sd.params, None, ids) for chunk in (2, 3)
    )
    for layer, record in three.items():
        assert two[layer]["rows"] == ids.size
        for name, expected in record.items():
            close(two[layer][name], expected, 1e-5)  # fp32 sums over other numbers of rows


def test_layers_that_read_text_need_no_picture():
    assert [reads_text(layer) for layer in (TEXT, TEXT.replace("to_k", "to_v"), TOWER)] == [True] * 3
    assert [reads_text(layer) for layer in (PICTURE, TEXT.replace("to_k", "to_q"))] == [False] * 2
