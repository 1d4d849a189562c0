import json
from pathlib import Path

import numpy as np
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.torch_names import flax_path, to_flax, to_torch, torch_key

SHAPES = json.loads((Path(__file__).parents[1] / "data" / "sd15_param_shapes.json").read_text())


@pytest.mark.parametrize("component", SHAPES)
def test_table_is_a_bijection_on_the_full_size_keys(component):
    paths = SHAPES[component]
    keys = {torch_key(component, path): path for path in paths}
    assert len(keys) == len(paths)
    for key, path in keys.items():
        assert flax_path(component, key, len(paths[path])) == path


@pytest.mark.parametrize("component", SHAPES)
def test_tree_survives_a_round_trip_with_contiguous_arrays(component):
    generator = np.random.default_rng(0)
    # Small arrays with a different size on every axis, so that a wrong transpose is noticed.
    tree = {}
    for path, shape in SHAPES[component].items():
        *modules, leaf = path.split("/")
        node = tree
        for name in modules:
            node = node.setdefault(name, {})
        node[leaf] = generator.standard_normal(range(2, 2 + len(shape))).astype(np.float16)
    tensors = to_torch(component, tree)
    assert all(tensor.flags.c_contiguous and tensor.dtype == np.float16 for tensor in tensors.values())
    back = to_flax(component, tensors)
    for path in SHAPES[component]:
        ours, theirs = back, tree
        for name in path.split("/"):
            ours, theirs = ours[name], theirs[name]
        np.testing.assert_array_equal(ours, theirs)


def test_axes_follow_pytorch():
    conv, dense, scale = np.zeros((8, 4, 3, 2)), np.zeros((8, 4)), np.zeros(8)
    tree = to_flax("unet", {"conv_in.weight": conv, "mid_block.resnets.1.time_emb_proj.weight": dense})
    assert tree["conv_in"]["kernel"].shape == (3, 2, 4, 8)
    assert tree["mid_block"]["resnets_1"]["time_emb_proj"]["kernel"].shape == (4, 8)
    assert to_flax("unet", {"conv_norm_out.weight": scale})["conv_norm_out"]["scale"].shape == (8,)
    table = to_flax("text_encoder", {"text_model.embeddings.token_embedding.weight": dense})
    assert table["text_model"]["embeddings"]["token_embedding"]["embedding"].shape == (8, 4)


def test_old_spellings_are_read_as_the_new_ones():
    weight = np.arange(6.0).reshape(2, 3)
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        prefix = "decoder.mid_block.attentions.0."
        assert flax_path("vae", f"{prefix}{old}.weight", 2) == flax_path("vae", f"{prefix}{new}.weight", 2)
        tree = to_flax("vae", {f"{prefix}{old}.weight": weight})
        (key,) = to_torch("vae", tree)
        assert key == f"{prefix}{new}.weight"
    short, long = "final_layer_norm.bias", "text_model.final_layer_norm.bias"
    assert flax_path("text_encoder", short, 1) == flax_path("text_encoder", long, 1)
    assert torch_key("text_encoder", "text_model/final_layer_norm/bias") == long


def test_position_ids_are_no_parameter():
    bias = np.ones(3)
    tensors = {"embeddings.position_ids": np.arange(77)[None], "final_layer_norm.bias": bias}
    assert to_flax("text_encoder", tensors) == {"text_model": {"final_layer_norm": {"bias": bias}}}


def test_same_parameter_in_two_spellings_is_an_error():
    with pytest.raises(UserError, match=r"'encoder\.layers\.0\.mlp\.fc1\.bias'.*same parameter"):
        key = "encoder.layers.0.mlp.fc1.bias"
        to_flax("text_encoder", {f"text_model.{key}": np.zeros(2), key: np.zeros(2)})


@pytest.mark.parametrize("key", ["conv_in.running_mean", "conv_in", "weight"])
def test_key_of_another_format_is_an_error(key):
    with pytest.raises(UserError, match=key):
        flax_path("unet", key, 1)


def test_path_of_no_parameter_is_an_error():
    with pytest.raises(UserError, match="conv_in/weight"):
        torch_key("unet", "conv_in/weight")
    with pytest.raises(UserError, match="text_encoder_3"):
        torch_key("text_encoder_3", "a/kernel")
