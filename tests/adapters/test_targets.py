"""Which layers a setting adapts."""

from __future__ import annotations

import numpy as np
import pytest

from blocklora_jax.adapters.targets import LAYER_SETS, parse_layers, select_kernels
from blocklora_jax.errors import UserError
from blocklora_jax.testing.tiny_model import tiny_params


def paths(layers: str) -> set[str]:
    return {
        f"{component}/{path}" for component, found in select_kernels(tiny_params(), layers).items() for path in found
    }


def names(layers: str) -> set[str]:
    return {path.rsplit("/", 1)[-1] for path in paths(layers)}


def test_cross_kv_adapts_the_unet_layers_that_read_text():
    found = paths("cross_kv")
    # One transformer block down, one in the middle, two up, each with two layers.
    assert len(found) == 8
    assert all(path.startswith("unet/") and "/attn2/to_" in path for path in found)
    assert names("cross_kv") == {"to_k", "to_v"}


def test_attention_adapts_all_four_projections_of_both_attentions():
    assert names("attention") == {"to_q", "to_k", "to_v", "to_out_0"}
    assert len(paths("attention")) == 4 * 2 * 4
    assert paths("cross_kv") < paths("attention")


def test_full_adds_feed_forward_and_projections_with_their_1x1_convolutions():
    assert {path.rsplit("/", 1)[-1] for path in paths("full") - paths("attention")} == {
        "proj",
        "net_2",
        "proj_in",
        "proj_out",
    }
    shapes = select_kernels(tiny_params(), "full")["unet"]
    assert shapes["mid_block/attentions_0/proj_in"] == (32, 32)


def test_text_encoder_adapts_its_attention():
    assert names("text_encoder") == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert set(select_kernels(tiny_params(), "text_encoder")) == {"text_encoder"}


def test_text_encoder_means_both_text_encoders_of_sdxl():
    shapes = select_kernels(tiny_params(family="sdxl"), "text_encoder")
    assert {part: len(found) for part, found in shapes.items()} == {"text_encoder": 2 * 4, "text_encoder_2": 3 * 4}


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_same_layers_of_later_models_are_adapted(family):
    shapes = select_kernels(tiny_params(family=family), "full")["unet"]
    # Two transformer blocks in each of the four attentions of the second level of SDXL.
    transformers = 2 * 4 if family == "sdxl" else 4
    assert len(shapes) == 4 * 2 + transformers * (8 + 2)
    assert shapes["mid_block/attentions_0/proj_in"] == (32, 32)
    assert not any("add_embedding" in path or "resnets" in path for path in shapes)
    kv = select_kernels(tiny_params(family=family), "cross_kv")["unet"]
    assert len(kv) == 2 * transformers
    assert {shape[0] for shape in kv.values()} == {56 if family == "sdxl" else 32}


def test_layer_sets_can_be_joined():
    assert paths("cross_kv + text_encoder") == paths("cross_kv") | paths("text_encoder")


def test_shapes_are_those_of_the_kernels():
    params, shapes = tiny_params(), select_kernels(tiny_params(), "cross_kv")["unet"]
    for path, shape in shapes.items():
        node = params["unet"]
        for name in path.split("/"):
            node = node[name]
        assert node["kernel"].shape == shape


def test_kernels_of_wider_convolutions_are_not_adapted():
    params = {"unet": {"a": {"proj_in": {"kernel": np.zeros((3, 3, 4, 4))}}}, "text_encoder": {}}
    with pytest.raises(UserError, match="matches no layer"):
        select_kernels(params, "full")


@pytest.mark.parametrize("layers", ["everything", "cross_kv+", "", "cross_kv,attention"])
def test_the_error_for_an_unknown_name_lists_the_known_ones(layers):
    with pytest.raises(UserError, match="unknown layer set .*" + ", ".join(LAYER_SETS)):
        parse_layers(layers)
