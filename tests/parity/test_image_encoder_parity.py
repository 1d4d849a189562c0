"""The CLIP image encoder compared with transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_models import normal, relative_error, without_grad
from transformers import CLIPVisionModelWithProjection

from blocklora_jax.checkpoints.image_encoder import load_image_encoder, save_image_encoder
from blocklora_jax.models.clip_vision import CLIPVisionModel, VisionConfig

CONFIGS = {
    "quick": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "patch_size": 8,
        "image_size": 32,
        "hidden_act": "quick_gelu",
    },
    "odd": {"hidden_size": 24, "num_attention_heads": 3, "patch_size": 7, "image_size": 28, "hidden_act": "gelu"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_image_encoder_gives_the_output_of_transformers(tmp_path, name):
    config = VisionConfig.from_json(
        CONFIGS[name] | {"intermediate_size": 48, "num_hidden_layers": 2, "projection_dim": 20}, name
    )
    images = normal(0, 3, config.image_size, config.image_size, 3)
    model = CLIPVisionModel(config)
    params = model.init(jax.random.key(0), jnp.asarray(images))["params"]
    leaves, structure = jax.tree.flatten(params)
    # Change the initial zeros and ones.
    leaves = [np.asarray(leaf) + 0.1 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    params = jax.tree.unflatten(structure, leaves)
    save_image_encoder(tmp_path, config, params, normal(1, 16, 20))
    theirs, report = CLIPVisionModelWithProjection.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    reference = without_grad(theirs.eval(), pixels).image_embeds.numpy()
    assert relative_error(model.apply({"params": params}, jnp.asarray(images)), reference) <= 1e-5
    loaded_config, read, projection = load_image_encoder(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, read, params)
    np.testing.assert_array_equal(projection, normal(1, 16, 20))
