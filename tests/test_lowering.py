"""The training step, sampling and merging can be lowered for TPU and CUDA, on a machine that has neither."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from concept_builders import make_batch, make_config, make_trainable
from jax import export

import merge
from blocklora_jax.diffusion.generate import compile_generate
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import SCHEDULE, TEXT_WIDTH, tiny_models, tiny_params
from train.concept.state import init_state, make_optimizer, stack
from train.concept.step import make_step
from train.engine.parallel import map_step

PLATFORMS = ("tpu", "cuda")


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.asarray(x).dtype), tree)


def lower(function, *arguments) -> str:
    """The lowered module as text."""
    exported = export.export(function, platforms=PLATFORMS)(*shapes(arguments))
    assert exported.platforms == PLATFORMS
    assert len(exported.mlir_module_serialized) > 1000
    return exported.mlir_module()


@pytest.mark.parametrize(("erase", "dtype"), [("layer", jnp.float32), ("epsilon", jnp.bfloat16)])
def test_the_training_step_lowers(erase, dtype):
    config = make_config(erase=erase, layers="full+text_encoder")
    models = tiny_models(levels=1)
    models = models._replace(
        unet=models.unet.clone(dtype=dtype, remat=True), text_encoder=models.text_encoder.clone(dtype=dtype)
    )
    trainable, masks = make_trainable(config)
    optimizer = make_optimizer(config.optimizer, config.steps, config.adapter.down_is_frozen)
    step = map_step(
        make_step(models, SCHEDULE, optimizer, adapter=config.adapter, erasure=config.erasure, loss=config.loss),
        jax.devices()[:1],
    )
    state = stack([init_state(trainable, masks, optimizer, jax.random.key(0))])
    text = lower(step, state, jax.tree.map(lambda x: x[None], make_batch(2, 2)), tiny_params(levels=1))
    assert "all_reduce" in text
    assert "optimization_barrier" in text  # rematerialisation
    assert ("bf16" in text) == (dtype == jnp.bfloat16)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m"])
def test_sampling_lowers_with_its_loop(sampler):
    program = compile_generate(tiny_models(levels=1), SCHEDULE, sampler, 4, True)
    ids = jnp.zeros((2, 6), jnp.int32)
    text = lower(program, tiny_params(levels=1), ids, ids, jnp.zeros((2, 8, 8, 4)), jnp.float32(3))
    assert "stablehlo.while" in text
    assert "tensor<2x16x16x3xui8>" in text


def test_compose_lowers():
    params = tiny_params(levels=1)
    adapters = [random_adapter(name, params, slots=(slot,)) for slot, name in enumerate("pq")]
    composed = jax.jit(
        lambda params, adapters, weights: merge.compose(params, adapters, list(weights), check_base=False)
    )
    text = lower(composed, params, adapters, jnp.ones(2))
    assert "stablehlo.dot_general" in text
    assert f"tensor<44x{TEXT_WIDTH}xf32>" in text  # 40 tokens, and two vectors a concept
