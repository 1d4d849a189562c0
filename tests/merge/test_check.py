"""What a merge refuses, and with which message."""

from __future__ import annotations

import dataclasses
import re

import jax
import numpy as np
import pytest
from merge_builders import flatten, make_adapter, make_params, nest

import merge
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.errors import UserError

SIXTEEN, TWO = Partition(num_blocks=16), Partition(num_blocks=2)


def refusal(adapters, weights=None, params=None, **options) -> str:
    with pytest.raises(UserError) as error:
        merge.compose(make_params() if params is None else params, adapters, weights, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_equal_slots_are_named_with_free_ones():
    message = refusal([make_adapter("ada", (1, 2)), make_adapter("bob", (2,))])
    assert "'ada' and 'bob' both own slot 2: retrain one with --slot N (free: 0, 3)" in message
    assert "allow_overlap=True (--allow-overlap)" in message


def test_full_partition_asks_for_more_blocks():
    message = refusal([make_adapter("ada", (0,), TWO), make_adapter("bob", (1,), TWO), make_adapter("cyd", (1,), TWO)])
    assert "'bob' and 'cyd' both own slot 1: retrain one with more --blocks" in message
    assert "'ada'" not in message


def test_unblocked_adapters_can_only_be_merged_alone():
    plain, blocked = make_adapter("ada", partition=None), make_adapter("bob")
    merge.compose(make_params(), [plain])
    assert "'ada' and 'bob' overlap, because 'ada' has no blocks" in refusal([plain, blocked])
    other = make_adapter("cyd", partition=None)
    assert "'ada' and 'cyd' overlap, because 'ada' and 'cyd' have no blocks" in refusal([plain, other])


def test_different_partitions_are_refused_only_where_weights_are_shared():
    layer = "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"
    layers = {"unet": {layer: (24, 16)}}
    halves = Partition(num_blocks=2, seed=0)
    quarter = halves.support(f"unet/{layer}", (24, 16), (0,)).rows[:6]
    slots = [
        slot for slot in range(4)
        if set(Partition(num_blocks=4).support(f"unet/{layer}", (24, 16), (slot,)).rows) <= set(quarter)
    ]  # fmt: skip
    inside, outside = make_adapter("ada", (0,), halves, layers=layers), make_adapter("bob", (1,), halves, layers=layers)
    fine = make_adapter("cyd", tuple(slots), Partition(num_blocks=4), layers=layers)
    assert "'ada' and 'cyd' overlap, because their partitions differ" in refusal([inside, fine])
    merge.compose(make_params(), [outside, fine])


def test_equal_slots_in_different_layers_do_not_collide():
    layers = {"text_encoder": {"text_model/encoder/layers/0/self_attn/q_proj": (24, 24)}}
    unet_only = {"unet": {"mid_block/attentions_0/proj_in": (16, 19)}}
    merge.compose(make_params(), [make_adapter("ada", layers=layers), make_adapter("bob", layers=unet_only)])


def test_equal_tokens_are_refused_even_where_overlap_is_allowed():
    one = make_adapter("ada", (0,))
    other = dataclasses.replace(make_adapter("bob", (1,)), tokens=one.tokens)
    message = refusal([one, other], allow_overlap=True)
    assert "'ada' and 'bob' both define the token <ada>: train one with another --token" in message


def test_adapters_of_different_bases_are_refused():
    message = refusal([make_adapter("ada", (0,), digest="a" * 64), make_adapter("bob", (1,), digest="b" * 64)])
    assert f"trained on different models: 'ada' on small ({'a' * 12}), 'bob' on small ({'b' * 12})" in message


def test_params_of_another_model_are_refused_with_advice():
    params = make_params()
    adapter = make_adapter("ada", digest=params_digest(params))
    merged = merge.compose(params, [adapter])
    for wrong in (merged, make_params(seed=1)):
        message = refusal([adapter], params=wrong)
        assert "not the model that 'ada' was trained on, small" in message
        assert "already merged" in message
        assert "check_base=False" in message
        merge.compose(wrong, [adapter], check_base=False)
    half = jax.tree.map(lambda x: x.astype(np.float16), params)
    merge.compose(half, [adapter])
    jax.jit(merge.compose)(make_params(seed=1), [adapter])


def test_missing_layers_and_other_shapes_are_all_named():
    flat = flatten(make_params())
    kernel = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k/kernel"
    flat[kernel] = flat[kernel][:20]
    del flat["text_encoder/text_model/encoder/layers/0/self_attn/q_proj/kernel"]
    message = refusal([make_adapter("ada")], params=nest(flat))
    assert "do not have layers of 'ada': text_encoder/text_model/encoder/layers/0/self_attn/q_proj" in message
    assert f"{kernel.removesuffix('/kernel')} is [20, 16] in the params and [24, 16] in the adapter" in message


def test_long_lists_are_cut_short():
    layers = {"unet": {f"down_blocks_{i}/to_k": (16, 16) for i in range(30)}}
    assert re.search(r"down_blocks_3/to_k and 26 more", refusal([make_adapter("ada", layers=layers)]))


def test_token_of_another_width_is_refused():
    adapter = make_adapter("ada")
    adapter = dataclasses.replace(adapter, tokens={"<ada>": np.zeros((2, 5), np.float32)})
    assert "token <ada> of 'ada' has the shape [2, 5]; the text encoder's tokens are 24 wide" in refusal([adapter])


def test_tokens_for_one_of_two_text_encoders_are_refused():
    table = {"text_model/embeddings/token_embedding/embedding": np.ones((7, 5), np.float32)}
    params, plain = {**make_params(), "text_encoder_2": nest(table)}, make_adapter("ada")
    assert "'ada' has {} vectors for text_encoder_2, but {'<ada>': 2}" in refusal([plain], params=params)
    for shape, text in (((3, 5), "{'<ada>': 3} vectors"), ((2, 6), "[2, 6]; the text encoder 2's tokens are 5 wide")):
        adapter = dataclasses.replace(plain, tokens_2={"<ada>": np.zeros(shape, np.float32)})
        assert text in refusal([adapter], params=params)
        assert "the params do not have text_encoder_2/" in refusal([adapter])


def test_adapters_of_other_kinds_of_model_are_refused():
    one, other = make_adapter("ada", (0,)), make_adapter("bob", (1,))
    other = dataclasses.replace(other, info=dataclasses.replace(other.info, base_family="sdxl"))
    assert "the adapters are for different families of models: sd1 and sdxl" in refusal([one, other])


def test_params_without_a_token_table_are_refused():
    params = {"unet": make_params()["unet"]}
    adapter = make_adapter("ada", layers={"unet": {"mid_block/attentions_0/proj_in": (16, 19)}})
    assert "to which the tokens of 'ada' are appended" in refusal([adapter], params=params)
    merge.compose(params, [dataclasses.replace(adapter, tokens={})])


@pytest.mark.parametrize(
    ("weights", "text"), [([1.0], "1 weights for 2 adapters"), ([1.0, np.nan], "weight nan is not")]
)
def test_wrong_weights_are_refused(weights, text):
    assert text in refusal([make_adapter("ada", (0,)), make_adapter("bob", (1,))], weights)


def test_all_problems_are_in_one_message():
    one = make_adapter("ada", (0,), digest="a" * 64)
    other = dataclasses.replace(make_adapter("bob", (0,), digest="b" * 64), tokens=one.tokens)
    message = refusal([one, other], [1.0])
    assert all(text in message for text in ("1 weights", "different models", "token <ada>", "both own slot 0"))


def test_concatenate_names_layers_of_other_shapes():
    layer = "mid_block/attentions_0/proj_in"
    one = make_adapter("ada", (0,), layers={"unet": {layer: (16, 19)}})
    other = make_adapter("bob", (1,), layers={"unet": {layer: (32, 19)}})
    with pytest.raises(UserError, match=f"'ada' and 'bob' differ in the shapes of unet/{layer}"):
        merge.concatenate([one, other])
