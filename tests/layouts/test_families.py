"""The family of a LoRA is found from its layers' names and sizes, from the names in the file, and from its header."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from blocklora_jax.layouts.families.recognise import Shape, possible_families
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.lora_layers import known_layers

DATA = Path(__file__).parents[1] / "data"
CROSS = ("unet", "down_blocks_1/attentions_0/transformer_blocks_0/attn2/to_k")
SELF = ("unet", "down_blocks_1/attentions_0/transformer_blocks_0/attn1/to_q")
Q = "text_model/encoder/layers/0/self_attn/q_proj"
FC2 = "text_model/encoder/layers/0/mlp/fc2"


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        ({CROSS: Shape(768, 640)}, {"sd1"}),
        ({CROSS: Shape(1024, 640)}, {"sd2"}),
        ({CROSS: Shape(2048, 640)}, {"sdxl"}),
        ({CROSS: Shape(40, 16)}, set(FAMILIES)),
        ({SELF: Shape(640, 640)}, set(FAMILIES)),
        ({("text_encoder", Q): Shape(768, 768)}, {"sd1", "sdxl"}),
        ({("text_encoder", FC2): Shape(4096, 1024)}, {"sd2"}),
        ({("text_encoder", Q.replace("0", "17")): Shape(24, 24)}, {"sd2"}),
        ({("text_encoder_2", Q): Shape(1280, 1280)}, {"sdxl"}),
        ({("unet", "down_blocks_2/attentions_1/transformer_blocks_9/attn1/to_q"): Shape(8, 8)}, {"sdxl"}),
        ({("unet", "up_blocks_0/attentions_1/transformer_blocks_0/attn1/to_q"): Shape(8, 8)}, {"sdxl"}),
        ({("unet", "down_blocks_0/attentions_1/transformer_blocks_0/attn1/to_q"): Shape(8, 8)}, {"sd1", "sd2"}),
        ({("unet", "up_blocks_3/resnets_0/conv1"): Shape(8, 8)}, {"sd1", "sd2"}),
        ({("unet", "add_embedding/linear_1"): Shape(8, 8)}, {"sdxl"}),
        ({("unet", "mid_block/attentions_0/proj_in"): Shape(1280, 1280, 2)}, {"sd2", "sdxl"}),
        ({("unet", "mid_block/attentions_0/proj_in"): Shape(1280, 1280, 4)}, {"sd1"}),
        # sd-scripts trains the projections of 2.x as convolutions.
        ({("unet", "mid_block/attentions_0/proj_in"): Shape(1280, 1280, 4), CROSS: Shape(1024, 640)}, {"sd2"}),
        ({SELF: Shape(640, 640), ("text_encoder", Q): Shape(768, 768),
          ("unet", "mid_block/attentions_0/proj_in"): Shape(1280, 1280, 2)}, {"sdxl"}),
    ],
)  # fmt: skip
def test_layers_tell_their_family(shapes, wanted):
    assert possible_families(shapes) == wanted


@pytest.mark.parametrize(
    ("names", "metadata", "wanted"),
    [
        (["lora_te1_text_model_encoder_layers_0_mlp_fc1"], {}, {"sdxl"}),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1"], {}, {"sd1", "sd2"}),
        (["text_encoders.clip_h.transformer.text_model"], {}, {"sd2"}),
        (["lora_unet_input_blocks_4_1_proj_in"], {}, {"sdxl"}),
        (["unet.mid_block"], {}, set(FAMILIES)),
        ([], {"ss_base_model_version": "sdxl_base_v1-0"}, {"sdxl"}),
        ([], {"ss_base_model_version": "sd_v2_768_v"}, {"sd2"}),
        ([], {"modelspec.architecture": "stable-diffusion-v1/lora"}, {"sd1"}),
        ([], {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, {"sdxl"}),
    ],
)
def test_names_and_headers_tell_the_family_if_layers_do_not(names, metadata, wanted):
    assert possible_families({SELF: Shape(640, 640)}, names, metadata) == wanted


def test_the_layers_outweigh_the_header():
    assert possible_families({CROSS: Shape(768, 640)}, (), {"ss_base_model_version": "sdxl_base_v1-0"}) == {"sd1"}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_of_a_published_unet_contradicts_its_family(family):
    if family == "sd1":
        shapes = json.loads((DATA / "sd15_param_shapes.json").read_text())["unet"]
    else:
        packed = (DATA / "unet_param_shapes.json.gz").read_bytes()
        shapes = json.loads(gzip.decompress(packed))[{"sd2": "sd21", "sdxl": "sdxl"}[family]]
    found = {}
    for path, shape in shapes.items():
        layer = path.removesuffix("/kernel")
        if layer in known_layers("unet"):
            found["unet", layer] = Shape(*shape[-2:], len(shape))
            assert family in possible_families({("unet", layer): found["unet", layer]}), layer
    assert len(found) > 200
    assert possible_families(found) == {family}
