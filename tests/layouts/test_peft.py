"""The PEFT layout: names, shapes, ranks and memory order; diffusers itself reads it in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.peft import peft_layer, peft_tensors
from blocklora_jax.layouts.textual_inversion import embedding_path, embedding_tensors

OUT = "down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_out_0"
PROJ = "mid_block/attentions_0/proj_in"
Q = "text_model/encoder/layers/0/self_attn/q_proj"
FC2 = "text_model/encoder/layers/1/mlp/fc2"


def pair(n: int, m: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + m)
    return rng.standard_normal((n, rank), np.float32), rng.standard_normal((rank, m), np.float32)


def test_keys_orientation_and_one_rank():
    lowrank = {"unet": {OUT: pair(5, 7, 2), PROJ: pair(4, 6, 3)}, "text_encoder": {Q: pair(8, 8, 1)}}
    tensors = peft_tensors(lowrank, np.dtype(np.float32))
    assert {key: value.shape for key, value in tensors.items()} == {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight": (3, 5),
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight": (7, 3),
        "unet.mid_block.attentions.0.proj_in.lora_A.weight": (3, 4, 1, 1),
        "unet.mid_block.attentions.0.proj_in.lora_B.weight": (6, 3, 1, 1),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": (3, 8),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": (8, 3),
    }
    assert all(value.flags.c_contiguous and value.dtype == np.float32 for value in tensors.values())
    down, up = list(tensors.values())[:2]
    a, b = lowrank["unet"][OUT]
    # fp32; padding adds zeros only.
    np.testing.assert_allclose((up @ down).T, a @ b, atol=1e-6)


def test_text_encoder_without_attention_layers_gets_one_of_zeros():
    tensors = peft_tensors({"text_encoder": {FC2: pair(32, 8, 2)}}, np.dtype(np.float16))
    root = "text_encoder.text_model.encoder.layers.1"
    down, up = (tensors[f"{root}.self_attn.q_proj.lora_{x}.weight"] for x in "AB")
    assert down.shape == (2, 8)
    assert up.shape == (8, 2)
    assert not down.any()
    assert not up.any()
    assert tensors[f"{root}.mlp.fc2.lora_A.weight"].dtype == np.float16


def test_no_layers_give_no_tensors():
    assert peft_tensors({"unet": {}, "text_encoder": {}}, np.dtype(np.float32)) == {}


def test_a_token_file_holds_one_token(tmp_path):
    vectors = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    tensors = embedding_tensors("<ada>", vectors, np.dtype(np.float32))
    assert list(tensors) == ["<ada>"]
    assert tensors["<ada>"].flags.c_contiguous
    np.testing.assert_array_equal(tensors["<ada>"], vectors)


def test_token_files_are_beside_the_lora():
    assert str(embedding_path("out/v1.5.safetensors", "<ada>")) == "out/v1.5.ada.safetensors"
    with pytest.raises(UserError, match="cannot name a file"):
        embedding_path("out/a.safetensors", "<../ada>")


@pytest.mark.parametrize(
    "layer", ["time_embedding.linear_1", "add_embedding.linear_2", "conv_in", "mid_block.resnets.0.conv1"]
)
def test_a_unet_that_peft_wrapped_alone_has_layers_outside_of_its_blocks(layer):
    assert peft_layer(f"base_model.model.{layer}") == peft_layer(f"unet.{layer}") is not None
