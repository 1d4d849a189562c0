"""`generate` with modules that are small enough to compute by hand."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.diffusion.generate import Models, decode, draw_keys, draw_latents, generate, to_uint8
from blocklora_jax.diffusion.samplers.table import SAMPLERS
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.errors import UserError

SCHEDULE = Schedule(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
)
TRACES = {"unet": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int = 10
    scaling_factor: float = 0.5
    latent_channels: int = 4
    downscale: int = 2


class Table(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, ids):
        embedding = self.param("embedding", nn.initializers.normal(1.0), (self.config.vocab_size, 5))
        return embedding[ids]


class Embeddings(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, ids):
        return Table(self.config, name="token_embedding")(ids)


class TextModel(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, ids):
        return Embeddings(self.config, name="embeddings")(ids)


class TextEncoder(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, ids):
        return TextModel(self.config, name="text_model")(ids)


class UNet(nn.Module):
    config: Config
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, sample, timesteps, states):
        TRACES["unet"] += 1
        context = nn.Dense(4, name="to_v")(states.mean(1))[:, None, None, :]
        return jnp.tanh(sample + context + (timesteps / 1000)[:, None, None, None]).astype(self.dtype)


class VAE(nn.Module):
    config: Config

    def setup(self):
        self.out = nn.Dense(3)

    def decode(self, latents):
        return self.out(jnp.repeat(jnp.repeat(latents, 2, 1), 2, 2))


MODELS = Models(UNet(Config()), VAE(Config()), TextEncoder(Config()))
IDS = np.array([[1, 2, 3], [1, 5, 3]], np.int32)
EMPTY = np.array([[1, 0, 0], [1, 0, 0]], np.int32)


def make_params(seed: int, rows: int = 10):
    unet, vae, text = jax.random.split(jax.random.key(seed), 3)
    x = jnp.zeros((1, 4, 4, 4))
    encoder = TextEncoder(Config(vocab_size=rows))
    return {
        "unet": MODELS.unet.init(unet, x, jnp.zeros(1), jnp.zeros((1, 3, 5)))["params"],
        "vae": MODELS.vae.init(vae, x, method="decode")["params"],
        "text_encoder": encoder.init(text, IDS)["params"],
    }


def run(params, ids=IDS, negative=EMPTY, scale=4.0, steps=6, sampler="ddim", key=0, models=MODELS, batch=2, **more):
    latents = draw_latents(models, jax.random.key(key), batch, 8, 8)
    more = {"noise_keys": draw_keys(jax.random.key(key), batch), **more}
    return np.asarray(generate(models, params, SCHEDULE, sampler, ids, negative, latents, scale, steps, **more))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_have_the_right_shape_and_depend_on_prompt_and_noise(sampler):
    params = make_params(0)
    pictures = run(params, sampler=sampler)
    assert pictures.shape == (2, 8, 8, 3) and pictures.dtype == np.uint8 and pictures.std() > 1
    assert (pictures == run(params, sampler=sampler)).all()
    assert (pictures != run(params, ids=IDS[:, ::-1] + 1, sampler=sampler)).any()
    assert (pictures != run(params, key=1, sampler=sampler)).any()


def test_nothing_is_compiled_again_for_the_same_shapes():
    one, two = make_params(0), jax.tree.map(np.asarray, make_params(1))  # making them runs the module as well
    run(one, steps=9)
    before = TRACES["unet"]
    run(two, scale=2.5, ids=IDS + 1, negative=EMPTY + 1, key=3, steps=9)
    run(one, scale=7, ids=jnp.asarray(IDS), steps=9)
    assert TRACES["unet"] == before
    run(one, steps=9, batch=3, ids=IDS[[0, 1, 0]], negative=EMPTY[[0, 1, 0]])
    assert TRACES["unet"] > before


def test_noise_in_the_steps_depends_on_the_key_but_not_on_the_batch():
    params = make_params(0)
    pictures = run(params, sampler="euler_a")
    assert (pictures != run(params, sampler="euler_a", noise_keys=draw_keys(jax.random.key(9), 2))).any()
    alone = run(params, sampler="euler_a", ids=IDS[:1], negative=EMPTY[:1], batch=1)
    # One level of 255: another batch size may round differently.
    assert np.abs(alone[0].astype(int) - pictures[0]).max() <= 1
    with pytest.raises(UserError, match="noise_keys"):
        run(params, sampler="euler_a", noise_keys=None)


def test_rescaled_guidance_keeps_more_of_the_contrast_and_zero_changes_nothing():
    params = make_params(0)
    plain, half, whole = (run(params, scale=9.0, guidance_rescale=share) for share in (0, 0.5, 1.0))
    assert (plain == run(params, scale=9.0)).all()
    assert np.abs(whole.astype(int) - plain).max() > np.abs(half.astype(int) - plain).max() > 2
    with pytest.raises(UserError, match="guidance_rescale must lie in 0..1"):
        run(params, guidance_rescale=1.5)


def test_equal_modules_and_schedules_share_a_program():
    params = make_params(0)
    run(params, steps=8)
    before = TRACES["unet"]
    run(params, steps=8, models=Models(UNet(Config()), VAE(Config()), TextEncoder(Config())))
    assert TRACES["unet"] == before


def test_guidance_one_needs_no_negative_prompt_and_equals_guided_with_scale_near_one():
    params = make_params(0)
    alone = run(params, scale=1, negative=None)
    assert (alone == run(params, scale=None, negative=None)).all()
    # One level of 255: the scale is not quite 1.
    assert np.abs(alone.astype(int) - run(params, scale=1.00001)).max() <= 1
    assert np.abs(alone.astype(int) - run(params, scale=6.0)).max() > 5


def test_guidance_towards_the_negative_prompt_itself_changes_nothing():
    params = make_params(0)
    same = run(params, negative=IDS, scale=6.0)
    # One level of 255: n + s (n - n) is n, up to rounding of two batches of different size.
    assert np.abs(same.astype(int) - run(params, scale=1)).max() <= 1


def test_token_rows_past_the_config_are_used():
    params = make_params(0, rows=13)
    named = run(params, ids=np.full_like(IDS, 12))
    assert (named != run(params)).any()
    with pytest.raises(UserError, match="token id 12 is past the 10 rows"):
        run(make_params(0), ids=np.full_like(IDS, 12))


def test_guidance_without_negative_ids_is_an_error():
    with pytest.raises(UserError, match="negative_ids"):
        run(make_params(0), negative=None)


def test_unknown_sampler_and_impossible_steps_are_errors():
    with pytest.raises(UserError, match="ddim, euler, dpmpp_2m"):
        run(make_params(0), sampler="plms")
    with pytest.raises(UserError, match="0 sampling steps"):
        run(make_params(0), steps=0)


def test_a_unet_in_bf16_keeps_latents_in_fp32():
    params = make_params(0)
    half = run(params, models=MODELS._replace(unet=UNet(Config(), dtype=jnp.bfloat16)))
    # bf16 keeps 8 bits. With guidance 4 over six steps this is a few levels of 255, in a picture that has all levels.
    assert 0 < np.abs(half.astype(int) - run(params)).max() < 30


def test_decoding_divides_by_the_scaling_factor_and_clips():
    params = {"out": {"kernel": jnp.eye(4, 3), "bias": jnp.zeros(3)}}
    latents = jnp.array([-1.0, 0.1, 2.0, 0.0]).reshape(1, 1, 1, 4)
    pictures = decode(MODELS.vae, params, latents)
    np.testing.assert_allclose(pictures[0, 0, 0], [0.0, 0.6, 1.0], atol=1e-6)
    assert to_uint8(pictures)[0, 1, 1].tolist() == [0, 153, 255]


def test_bytes_round_half_to_even():
    levels = jnp.array([0.5, 1.5, 2.5, 254.6]).reshape(1, 1, 4, 1) / 255 * jnp.ones((1, 1, 4, 3))
    assert to_uint8(levels)[0, 0, :, 0].tolist() == np.round(np.asarray(levels * 255))[0, 0, :, 0].tolist()


def test_latents_of_a_picture_do_not_depend_on_the_batch():
    two, five = (draw_latents(MODELS, jax.random.key(3), n, 8, 6) for n in (2, 5))
    assert two.shape == (2, 4, 3, 4)
    assert (two == five[:2]).all() and (five[0] != five[1]).any()
    with pytest.raises(UserError, match="multiples of 2"):
        draw_latents(MODELS, jax.random.key(3), 1, 7, 8)
