"""The text encoder compared with transformers, on random weights."""

import jax
import numpy as np
import pytest
import torch
import torch_models as reference
from transformers import CLIPTextConfig
from transformers import CLIPTextModel as TorchTextModel
from transformers import CLIPTextModelWithProjection as TorchProjectionModel

from blocklora_jax.layouts.torch_names import to_flax
from blocklora_jax.models.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from blocklora_jax.models.config import TextConfig, TextProjectionConfig

SHARED = {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
CONFIGS = {
    "like 1.x": {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 12},
    "gelu, odd sizes": {
        "hidden_size": 35,
        "intermediate_size": 51,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
        "max_position_embeddings": 23,
    },
    "like 2.x": {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
        "projection_dim": 16,
    },
    "one head": {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1},
}


@pytest.mark.parametrize("length", [1, 13, 23])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_hidden_states_equal_transformers(name, length):
    module = reference.randomise(TorchTextModel(CLIPTextConfig(**SHARED, **CONFIGS[name])), 0)
    config = TextConfig.from_json(module.config.to_dict(), name)
    params = reference.as_jax(to_flax("text_encoder", reference.state_arrays(module)))
    ids = np.random.default_rng(1).integers(0, 99, (3, length)).astype(np.int32)
    theirs = module(torch.from_numpy(ids).long()).last_hidden_state.numpy()
    ours = jax.jit(CLIPTextModel(config).apply)({"params": params}, ids)
    assert reference.relative_error(ours, theirs) <= 1e-4


def test_written_config_is_read_by_transformers():
    config = TextConfig(**SHARED, **CONFIGS["gelu, odd sizes"])
    theirs = CLIPTextConfig.from_dict(config.to_json()).to_dict()
    assert {name: theirs[name] for name in CONFIGS["gelu, odd sizes"]} == CONFIGS["gelu, odd sizes"]


PROJECTIONS = {
    "like SDXL": {**CONFIGS["like 2.x"], "projection_dim": 32},
    "narrow projection": {**CONFIGS["gelu, odd sizes"], "projection_dim": 7},
    "one layer": {**CONFIGS["one head"], "projection_dim": 20},
}
# Ids (97 start, 98 end) of a prompt padded with another token, of an empty one padded with the end, and of a full one.
ENDED = np.array([[97, 3, 50, 98, 0, 0, 0], [97, 98, 98, 98, 98, 98, 98], [97, 6, 6, 6, 6, 6, 98]], np.int32)


@pytest.mark.parametrize("end", [98, 2])
@pytest.mark.parametrize("name", PROJECTIONS)
@torch.no_grad()
def test_penultimate_states_and_pooled_text_equal_transformers(name, end):
    options = {**SHARED, **PROJECTIONS[name], "eos_token_id": end}
    module = reference.randomise(TorchProjectionModel(CLIPTextConfig(**options)), 2)
    config = TextProjectionConfig.from_json(module.config.to_dict(), name)
    params = reference.as_jax(to_flax("text_encoder_2", reference.state_arrays(module)))
    theirs = module(torch.from_numpy(ENDED).long(), output_hidden_states=True)
    ours = jax.jit(CLIPTextModelWithProjection(config).apply)({"params": params}, ENDED)
    assert reference.relative_error(ours.states, theirs.hidden_states[-2].numpy()) <= 1e-4
    assert reference.relative_error(ours.pooled, theirs.text_embeds.numpy()) <= 1e-4


@torch.no_grad()
def test_first_text_encoder_of_sdxl_gives_the_states_before_its_last_layer():
    module = reference.randomise(TorchTextModel(CLIPTextConfig(**SHARED, **CONFIGS["like 1.x"])), 3)
    config = TextConfig.from_json(module.config.to_dict(), "x")
    params = reference.as_jax(to_flax("text_encoder", reference.state_arrays(module)))
    theirs = module(torch.from_numpy(ENDED).long(), output_hidden_states=True).hidden_states[-2].numpy()
    ours = jax.jit(CLIPTextModel(config, penultimate=True).apply)({"params": params}, ENDED)
    assert reference.relative_error(ours, theirs) <= 1e-4
