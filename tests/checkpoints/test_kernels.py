"""The widths of models that are known by name."""

from __future__ import annotations

import dataclasses

import pytest

from blocklora_jax.checkpoints.checkpoint import CONFIGS
from blocklora_jax.checkpoints.kernels import KNOWN, model_kernels
from blocklora_jax.testing.random_folder import read_configs

# Config fields that change the shape of no parameter.
OTHER = {"sample_size", "upcast_attention", "hidden_act", "bos_token_id", "eos_token_id", "pad_token_id"}


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_known_models_have_the_published_widths(family):
    published = read_configs(family)
    assert published.keys() - {"vae"} == KNOWN[family].keys()
    for part, ours in KNOWN[family].items():
        theirs = CONFIGS[part].from_json(published[part], family)
        fields = (
            {f.name for f in dataclasses.fields(theirs)}
            - OTHER
            - ({"projection_dim"} if part == "text_encoder" else set())
        )
        assert {name: getattr(ours, name) for name in fields} == {name: getattr(theirs, name) for name in fields}


def test_the_kernels_of_a_folder_follow_from_its_configs(tiny_folder):
    kernels = model_kernels(str(tiny_folder), "cross_kv+text_encoder")
    assert set(kernels) == {"unet", "text_encoder"}
    assert set(kernels["text_encoder"].values()) == {(32, 32)}
    assert {shape[0] for shape in kernels["unet"].values()} == {32}
