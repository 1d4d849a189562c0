"""Stages: the U-Net's parameters change at the stated step, and nothing else changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from blocklora_jax.diffusion.sample import sample
from blocklora_jax.diffusion.samplers.protocol import start
from blocklora_jax.diffusion.samplers.table import SAMPLERS, get_sampler
from blocklora_jax.diffusion.stages import Stage, first_calls
from blocklora_jax.errors import UserError
from blocklora_jax.testing.tiny_model import SCHEDULE, tiny_params


def fresh(index):
    return jax.random.normal(jax.random.fold_in(jax.random.key(5), index), (1, 4, 4, 2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_network_draws_from_its_call_on(name):
    sampler, noise = get_sampler(name), jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    plan = sampler.init(SCHEDULE, 4)
    networks = [lambda x, t: 0.3 * x, lambda x, t: -0.2 * x + 1e-4 * t]
    actual = sample(sampler, plan, networks[0], noise, fresh, stages=[(3, networks[1])])
    state = start(plan, noise, sampler.memory)
    for index in range(len(plan.timesteps)):
        row = jax.tree.map(lambda x, index=index: x[index], plan.coefficients)
        output = networks[index >= 3](sampler.scale(row, state.latents), plan.timesteps[index])
        state = sampler.step(row, state, output)
        if plan.noise_by is not None:
            state = state._replace(latents=state.latents + plan.noise_by[index] * fresh(index))
    # A compiled scan and single operations round differently.
    np.testing.assert_allclose(actual, state.latents, rtol=1e-4, atol=1e-4)


def test_stages_without_steps_change_no_bit_and_one_from_the_start_replaces_the_unet(tiny_sd):
    other = tiny_params(seed_rows(tiny_sd), levels=1)["unet"]
    other = jax.tree.map(lambda x: x * 1.1, other)
    prompts, settings = ["a photo of a man"], {"steps": 3, "seed": 1}
    plain = tiny_sd.generate(prompts, **settings)
    np.testing.assert_array_equal(tiny_sd.generate(prompts, **settings, stages=[Stage(1.0, other)]), plain)
    whole = tiny_sd.with_params({**tiny_sd.params, "unet": other}, []).generate(prompts, **settings)
    np.testing.assert_array_equal(tiny_sd.generate(prompts, **settings, stages=[Stage(0.0, other)]), whole)
    half = tiny_sd.generate(prompts, **settings, stages=[Stage(0.6, other)])
    assert (half != plain).any()
    assert (half != whole).any()


def seed_rows(sd) -> int:
    return len(sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"])


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.2), (-0.1,), (1.1,)])
def test_shares_must_lie_in_0_to_1_and_increase(shares):
    with pytest.raises(UserError, match="stages begin at"):
        first_calls([Stage(share, {}) for share in shares], 10)


def test_steps_that_are_not_taken_move_the_stages():
    stages = [Stage(0.2, {}), Stage(0.9, {})]
    assert first_calls(stages, 10, skipped=5) == (0, 4)
    assert first_calls(stages, 10, calls=2) == (4, 18)
