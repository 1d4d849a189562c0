"""LoRA files in 8-bit floats, with and without scales, and embeddings that are bundled with a LoRA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import merge
from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.testing.small_families import make_family

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PAIR = {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2), "alpha": ()}


def tensors(dtype=torch.float32):
    torch.manual_seed(0)
    values = {part: torch.randn(shape) for part, shape in PAIR.items()}
    return {f"{NAME}.{part}": x.to(dtype) for part, x in values.items()}


def product(path):
    (pair,) = Adapter.load(path).lora["unet"].values()
    return pair.lora_A @ pair.lora_B


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bit_floats_are_read_as_torch_reads_them(dtype, tmp_path):
    small = tensors(dtype)
    save_file(small, tmp_path / "small.safetensors")
    save_file({key: x.float() for key, x in small.items()}, tmp_path / "wide.safetensors")
    np.testing.assert_array_equal(product(tmp_path / "small.safetensors"), product(tmp_path / "wide.safetensors"))


@pytest.mark.parametrize("ending", ["scale_weight", "weight_scale", "weight.scale", "weight_scale_inv", "scale"])
def test_scales_are_multiplied_in(ending, tmp_path):
    small = tensors(torch.float8_e4m3fn)
    down, up = f"{NAME}.lora_down", f"{NAME}.lora_up"
    scales = {f"{down}.{ending}": torch.tensor(0.5), f"{up}.{ending}": torch.full((8, 1), 3.0)}
    marks = {"scaled_fp8": torch.zeros(0).to(torch.float8_e4m3fn), f"{down}.input_scale": torch.tensor(7.0)}
    save_file(small | scales | marks, tmp_path / "small.safetensors")
    wide = {
        key: x.float() * (0.5 if "lora_down" in key else 3.0 if "lora_up" in key else 1.0) for key, x in small.items()
    }
    save_file(wide, tmp_path / "wide.safetensors")
    np.testing.assert_array_equal(product(tmp_path / "small.safetensors"), product(tmp_path / "wide.safetensors"))


def test_a_scale_of_another_shape_is_named(tmp_path):
    small = tensors(torch.float8_e4m3fn) | {f"{NAME}.lora_up.scale_weight": torch.ones(2, 2)}
    save_file(small, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"scale_weight has the shape \[2, 2\]: one number for all"):
        Adapter.load(tmp_path / "a.safetensors")


def test_8_bit_integers_are_still_named(tmp_path):
    small = {key: x.to(torch.int8) for key, x in tensors().items()}
    save_file(small, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"lora_down.weight is I8"):
        Adapter.load(tmp_path / "a.safetensors")


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {name: make_family(name, tmp_path_factory.mktemp(name)) for name in ("sd1", "sdxl")}


def table(params, component):
    return params[component]["text_model"]["embeddings"]["token_embedding"]["embedding"]


def test_bundled_embeddings_become_tokens(families, tmp_path):
    vectors = torch.randn(3, 16)
    save_file(
        tensors() | {"bundle_emb.My Dog.string_to_param.*": vectors, "bundle_emb.<cat>.emb_params": vectors[0].clone()},
        tmp_path / "a.safetensors",
    )
    adapter = Adapter.load(tmp_path / "a.safetensors")
    assert {token: x.shape for token, x in adapter.tokens.items()} == {"<my-dog>": (3, 16), "<cat>": (1, 16)}
    assert set(adapter.info.trigger.split()) == {"<my-dog>", "<cat>"}
    params = families["sd1"].params
    merged = merge.compose(params, [adapter])
    rows = table(merged, "text_encoder")[len(table(params, "text_encoder")) :]
    np.testing.assert_array_equal(rows, np.concatenate([vectors[:1], vectors]))
    adapter.save(tmp_path / "ours.safetensors")
    assert set(Adapter.load(tmp_path / "ours.safetensors").tokens) == {"<my-dog>", "<cat>"}


def test_bundled_embeddings_of_sdxl_are_for_both_text_encoders(families, tmp_path):
    first, second = torch.randn(2, 16), torch.randn(2, 24)
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    pair = {f"{name}.lora_down.weight": torch.ones(1, 16), f"{name}.lora_up.weight": torch.ones(16, 1)}
    save_file(pair | {"bundle_emb.dog.clip_l": first, "bundle_emb.dog.clip_g": second}, tmp_path / "a.safetensors")
    merged = merge.compose(families["sdxl"].params, [Adapter.load(tmp_path / "a.safetensors")])
    np.testing.assert_array_equal(table(merged, "text_encoder")[-2:], first)
    np.testing.assert_array_equal(table(merged, "text_encoder_2")[-2:], second)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"bundle_emb.dog.t5": (2, 16)}, "an embedding of a kind that is not read: bundle_emb.dog.t5"),
        ({"bundle_emb.dog.emb_params": (0, 16)}, "has the shape [0, 16]"),
        ({"bundle_emb.dog.emb_params": (76, 16)}, "has the shape [76, 16]"),
        ({"bundle_emb.dog.emb_params": (2, 16), "bundle_emb.Dog!.emb_params": (2, 16)}, "both be called <dog>"),
    ],
)
def test_embeddings_that_cannot_be_tokens_are_named(extra, message, tmp_path):
    save_file(tensors() | {key: torch.ones(shape) for key, shape in extra.items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as error:
        Adapter.load(tmp_path / "a.safetensors")
    assert message in str(error.value)
