"""LoRAs of other programs: impossible numbers in them, and the names of their adapters."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.names import lora_name

HEAD = "lora_unet_mid_block_attentions_0_proj_in"
OTHER = "lora_unet_mid_block_attentions_0_proj_out"


def layer(head, rank=2, alpha=None, fill=1.0, dtype=np.float32):
    tensors = {
        f"{head}.lora_down.weight": np.full((rank, 8), fill, dtype),
        f"{head}.lora_up.weight": np.ones((8, rank), dtype),
    }
    return tensors | ({} if alpha is None else {f"{head}.alpha": np.array(alpha)})


def load(folder, *layers):
    save_file({key: x for tensors in layers for key, x in tensors.items()}, folder / "x.safetensors")
    return Adapter.load(folder / "x.safetensors")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([layer(HEAD, rank=0)], "has nothing in it: down [0, 8]"),
        ([layer(HEAD), layer(OTHER, rank=0)], "proj_out has nothing in it"),
        ([layer(HEAD, rank=0, alpha=1.0)], "has nothing in it"),
        ([layer(HEAD, alpha=0.0)], "has alpha 0"),
        ([layer(HEAD, alpha=4.0), layer(OTHER, alpha=0.0)], "proj_out has alpha 0"),
        ([layer(HEAD, alpha=float("nan"))], "not finite"),
        ([layer(HEAD, alpha=float("-inf"))], "not finite"),
        ([layer(HEAD, alpha=1e300)], "not finite"),
        ([layer(HEAD, alpha=1e9)], "is scaled by 5e+08"),
        ([layer(HEAD, fill=1e39, dtype=np.float64)], "not finite"),
        ([layer(HEAD, fill=1e38, alpha=100.0)], "too large"),
    ],
)
def test_impossible_numbers_are_named(tmp_path, layers, message):
    with pytest.raises(UserError) as error:
        load(tmp_path, *layers)
    assert message in str(error.value)
    assert "ask its author" in str(error.value)


def test_alpha_zero_is_allowed_for_a_layer_without_output(tmp_path):
    adapter = load(tmp_path, layer(HEAD), layer(OTHER, alpha=0.0, fill=0.0))
    assert not adapter.lora["unet"]["mid_block/attentions_0/proj_out"].lora_A.any()


@pytest.mark.parametrize("alpha", [np.array(-3.0), np.array([3], np.int64), np.array([[3.0]], np.float16)])
def test_every_spelling_of_alpha_is_read(tmp_path, alpha):
    (pair,) = load(tmp_path, layer(HEAD, alpha=alpha)).lora["unet"].values()
    assert (pair.lora_A == float(alpha.reshape(())) / 2).all()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ann/pytorch_lora_weights.safetensors", "ann"),
        ("bob/adapter_model.safetensors", "bob"),
        ("bob/checkpoint-500/pytorch_lora_weights.safetensors", "bob"),
        ("runs/ann/unet/adapter_model.safetensors", "ann"),
        ("ann/LoRA.safetensors", "ann"),
        (f"hub/models--owner--pixel-style/snapshots/{'0a' * 20}/pytorch_lora_weights.safetensors", "pixel-style"),
        ("ann/watercolour.safetensors", "watercolour"),
        ("ann/epoch\x1b[31m\n-5.safetensors", "epoch[31m-5"),
        ("ann/\u202e\x07.safetensors", "lora"),
        ("lora.v2.safetensors", "lora.v2"),
    ],
)
def test_an_adapter_is_named_after_the_part_of_its_path_that_tells_it_apart(path, name):
    assert lora_name(path) == name


def test_two_files_of_one_name_are_two_adapters(tmp_path):
    names = []
    for folder in ("ann", "bob"):
        (tmp_path / folder).mkdir()
        save_file(layer(HEAD), tmp_path / folder / "pytorch_lora_weights.safetensors")
        names.append(Adapter.load(tmp_path / folder / "pytorch_lora_weights.safetensors").name)
    assert names == ["ann", "bob"]
