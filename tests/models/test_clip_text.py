import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_shapes import model_shapes, random_params, read_config, reference_shapes

from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.config import TextConfig

CONFIG = TextConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=9,
)
IDS = jnp.array([[3, 7, 11, 2, 0], [5, 5, 49, 1, 4]])


@pytest.fixture(scope="module")
def params():
    return random_params(CLIPTextModel(CONFIG), IDS)


def test_full_size_parameters_have_the_known_names_and_shapes():
    model = CLIPTextModel(TextConfig.from_json(read_config("text_encoder"), "x"), dtype=jnp.bfloat16)
    assert model_shapes(model, jax.ShapeDtypeStruct((1, 77), jnp.int32)) == reference_shapes("text_encoder")


def test_a_token_changes_only_what_follows_it(params):
    apply = jax.jit(CLIPTextModel(CONFIG).apply)
    base = apply({"params": params}, IDS)
    changed = apply({"params": params}, IDS.at[:, 2].set(30))
    np.testing.assert_array_equal(changed[:, :2], base[:, :2])
    assert (jnp.abs(changed[:, 2:] - base[:, 2:]).max(axis=-1) > 1e-4).all()


def test_appended_token_rows_are_read(params):
    config = dataclasses.replace(CONFIG, vocab_size=51)
    shapes = model_shapes(CLIPTextModel(config), IDS)
    assert shapes["text_model/embeddings/token_embedding/embedding"] == (51, 24)


def test_bf16_computes_near_fp32(params):
    exact, out = (jax.jit(CLIPTextModel(CONFIG, d).apply)({"params": params}, IDS) for d in ("float32", "bfloat16"))
    assert out.dtype == jnp.bfloat16
    # bf16 keeps 8 bits, an error of 4e-3 at each of a dozen layers. The errors add up as a random walk.
    assert jnp.abs(out.astype(jnp.float32) - exact).max() < 0.03 * jnp.abs(exact).max()


def test_prompt_longer_than_the_position_table_is_an_error(params):
    with pytest.raises(ValueError, match="10 tokens .* at most 9"):
        CLIPTextModel(CONFIG).apply({"params": params}, jnp.zeros((1, 10), jnp.int32))
