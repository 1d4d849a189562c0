"""Block weights: A1111's blocks are those of LDM's names, and the change of every layer is multiplied exactly."""

from __future__ import annotations

import re

import numpy as np
import pytest

from blocklora_jax.adapters.block_weights import PRESETS, block_of, read_block_weights, weigh_all, weigh_blocks
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.lora_layers import known_layers, ldm_name
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import tiny_params


def block_in_ldm(layer: str) -> str:
    """The block as sd-webui-lora-block-weight reads it from a kohya key, which has LDM's name."""
    if match := re.match(r"(input|output)_blocks\.(\d+)\.", ldm_name(layer)):
        return f"{'IN' if match[1] == 'input' else 'OUT'}{int(match[2]):02}"
    return "M00" if ldm_name(layer).startswith("middle_block.") else ""


def test_every_layer_of_the_unet_is_in_the_block_of_its_ldm_name():
    layers = known_layers("unet")
    # A fourth block does not have these samplers and resnets in any published model.
    real = [layer for layer in layers if not re.search(r"(down_blocks_3/down|up_blocks_3/up)samplers", layer)]
    assert {layer: block_of(f"unet/{layer}") for layer in real} == {layer: block_in_ldm(layer) for layer in real}
    assert len(real) > 500
    assert block_of("text_encoder_2/text_projection") == "BASE"


@pytest.mark.parametrize(
    ("text", "layer", "factor"),
    [
        ("9,1,2,3,4,5,6,7,8,10,11,12,13,14,15,16,17", "text_encoder/text_model/encoder/layers/0/mlp/fc1", 9),
        ("9,1,2,3,4,5,6,7,8,10,11,12,13,14,15,16,17", "unet/down_blocks_1/attentions_0/proj_in", 3),
        ("9,1,2,3,4,5,6,7,8,10,11,12,13,14,15,16,17", "unet/mid_block/attentions_0/proj_in", 7),
        ("9,1,2,3,4,5,6,7,8,10,11,12,13,14,15,16,17", "unet/up_blocks_1/attentions_0/proj_in", 8),
        ("9,1,2,3,4,5,6,7,8,10,11,12,13,14,15,16,17", "unet/down_blocks_0/downsamplers_0/conv", 0),
        ("9,1,2,3,4,5,6,7,8,10,11,12,13,14,15,16,17", "unet/time_embedding/linear_1", 1),
        ("9,1,2,3,4,5,6,7,8,10,11,12", "unet/down_blocks_1/attentions_1/proj_in", 2),
        ("9,1,2,3,4,5,6,7,8,10,11,12", "unet/up_blocks_1/attentions_2/proj_in", 12),
        (",".join(map(str, range(20))), "unet/conv_in", 1),
        (",".join(map(str, range(26))), "unet/up_blocks_3/attentions_2/proj_in", 25),
        ("MIDD", "unet/up_blocks_1/attentions_1/proj_in", 1),
        ("BASE=0.5", "unet/conv_in", 1),
        ("IN04-OUT05=0.5,attn1=0", "unet/mid_block/attentions_0/transformer_blocks_0/attn1/to_q", 0),
        ("attn1=0,IN04-OUT05=0.5", "unet/mid_block/attentions_0/transformer_blocks_0/attn1/to_q", 0.5),
        ("attn2/to_[kv]$=2", "unet/mid_block/attentions_0/transformer_blocks_0/attn2/to_k", 2),
    ],
)
def test_a_layer_gets_the_factor_of_its_block_or_name(text, layer, factor):
    assert read_block_weights(text)(layer) == factor


def test_the_change_of_a_layer_is_multiplied_and_a_factor_of_one_changes_no_bit():
    adapter = random_adapter("ada", tiny_params(), slots=(0,))
    half = weigh_blocks(adapter, read_block_weights("M00=0.5"))
    for component, layers in adapter.lora.items():
        for path, pair in layers.items():
            other, factor = half.lora[component][path], 0.5 if path.startswith("mid_block") else 1.0
            np.testing.assert_array_equal(other.lora_A, np.float32(factor) * pair.lora_A)
            assert other.lora_B is pair.lora_B
            assert factor != 1 or other is pair
    assert half.info == adapter.info


def test_texts_are_for_all_adapters_or_one_for_each():
    adapters = [random_adapter(name, tiny_params(), slots=(0,), layers="cross_kv") for name in ("ada", "bob")]
    layer = "mid_block/attentions_0/transformer_blocks_0/attn2/to_k"
    sizes = [
        [abs(a.lora["unet"][layer].lora_A).max() > 0 for a in weigh_all(adapters, texts)]
        for texts in ((), ("NONE",), ("NONE", "ALL"))
    ]
    assert sizes == [[True, True], [False, False], [False, True]]
    with pytest.raises(UserError, match="3 block weights for 2 adapters"):
        weigh_all(adapters, ("ALL",) * 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "are 3 numbers: give 12 or 20"),
        ("R" + ",1" * 16, "'R' is not a number .random numbers, R and U, are not supported"),
        ("IN04-IN99=1", "there is no block in 'IN04-IN99'"),
        ("[=1", "is no regular expression"),
        ("=1", "is no block and no part of a layer's name"),
        ("1" + ",nan" * 16, "a block weight must be a finite number"),
    ],
)
def test_another_text_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        read_block_weights(text)


def test_all_presets_are_lists_of_17_numbers():
    assert all(read_block_weights(name)("unet/mid_block/attentions_0/proj_in") in (0, 0.5, 1) for name in PRESETS)
    assert {text.count(",") for text in PRESETS.values()} == {16}
