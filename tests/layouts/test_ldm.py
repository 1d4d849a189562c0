"""The table of single files: one to one on the full-size sets of keys, with names that diffusers' converters read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from full_size import FAMILIES, torch_model, torch_shapes

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.ldm import invert_table, join_tensors, ldm_table, split_tensor

# The number of tensors in the published files v1-5-pruned-emaonly, v2-1_768-ema-pruned and sd_xl_base_1.0, without
# buffers, and for 2.1 without the last block of the text encoder, which is not used.
PARAMETERS = {"sd1": 686 + 248 + 196, "sd2": 686 + 248 + 4 + 12 * 23, "sdxl": 1680 + 248 + 196 + 12 * 32 + 5}


def stored_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the single file, by key."""
    shapes = torch_shapes(family)
    inverse = invert_table(ldm_table(family, shapes))
    stored = {}
    for key, entries in inverse.items():
        parts = [np.broadcast_to(np.int8(0), shapes[component][name]) for component, name in entries]
        # Only the first axis grows. Really joining the tensors would take memory.
        head = join_tensors(entries[:1], parts[:1]).shape
        stored[key] = (head[0] * len(entries), *head[1:])
    return stored


@pytest.mark.parametrize("family", FAMILIES)
def test_table_is_a_bijection_on_the_full_size_keys(family):
    shapes = torch_shapes(family)
    table = ldm_table(family, shapes)
    assert set(table) == {(component, key) for component, keys in shapes.items() for key in keys}
    assert len(set(table.values())) == len(table)
    inverse = invert_table(table)
    assert {entry for entries in inverse.values() for entry in entries} == set(table)
    assert all(len(entries) in (1, 3) for entries in inverse.values())
    assert len(inverse) == PARAMETERS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_converters_read_every_name_in_its_shape(family):
    checkpoint = {key: torch.empty(shape, device="meta") for key, shape in stored_shapes(family).items()}
    shapes, converted = torch_shapes(family), {}
    converted["unet"] = theirs.convert_ldm_unet_checkpoint(checkpoint, dict(torch_model(family, "unet").config))
    converted["vae"] = theirs.convert_ldm_vae_checkpoint(checkpoint, dict(torch_model(family, "vae").config))
    if family == "sd2":
        prefix = "cond_stage_model.model."
        converted["text_encoder"] = theirs.convert_open_clip_checkpoint(
            torch_model(family, "text_encoder"), checkpoint, prefix
        )
    else:
        converted["text_encoder"] = theirs.convert_ldm_clip_checkpoint(checkpoint)
    if family == "sdxl":
        prefix = "conditioner.embedders.1.model."
        converted["text_encoder_2"] = theirs.convert_open_clip_checkpoint(
            torch_model(family, "text_encoder_2"), checkpoint, prefix
        )
    for component, expected in shapes.items():
        assert {key: tuple(x.shape) for key, x in converted[component].items()} == expected


def test_joined_tensors_are_split_into_the_same_tensors():
    rng = np.random.default_rng(0)
    qkv = [("text_encoder_2", f"text_model.encoder.layers.0.self_attn.{x}_proj.weight") for x in "qkv"]
    for entries, shape in (
        (qkv, (4, 4)),
        ([("text_encoder_2", "text_projection.weight")], (4, 6)),
        ([("vae", "decoder.mid_block.attentions.0.to_out.0.weight")], (4, 4)),
        ([("unet", "conv_in.weight")], (4, 3, 3, 3)),
    ):
        tensors = [rng.standard_normal(shape, np.float32) for _ in entries]
        back = split_tensor(entries, join_tensors(entries, tensors))
        for one, other in zip(tensors, back, strict=True):
            np.testing.assert_array_equal(one, other)
    assert join_tensors(*_projection()).shape == (6, 4)


def _projection():
    return [("text_encoder_2", "text_projection.weight")], [np.zeros((4, 6), np.float32)]


def test_a_component_or_key_without_a_place_is_named():
    with pytest.raises(UserError, match="sd1 has no text_encoder_2"):
        ldm_table("sd1", {"text_encoder_2": ["text_projection.weight"]})
    with pytest.raises(UserError, match="'encoder_hid_proj.weight' has no name"):
        ldm_table("sd1", {"unet": ["encoder_hid_proj.weight"]})
