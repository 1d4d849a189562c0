"""Pictures of NaN are an error that says what to check. Impossible sizes and numbers are refused beforehand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax.checks.texts import check_texts
from blocklora_jax.diffusion.explain_pictures import explain_pictures
from blocklora_jax.diffusion.models import make_models
from blocklora_jax.errors import UserError
from blocklora_jax.testing.tiny_model import tiny_configs

QUICK = {"steps": 2, "sampler": "ddim"}
PROMPTS = ["a photo of a man", "a dog"]


def changed(params, part: str, value: float) -> dict:
    """The params with one bias of a component filled with `value`."""
    component = dict(params[part])
    name = {"unet": "conv_in", "vae": "post_quant_conv"}[part]
    component[name] = {**component[name], "bias": jnp.full_like(component[name]["bias"], value)}
    return {**params, part: component}


@pytest.mark.parametrize(
    ("part", "value", "cause"),
    [
        ("unet", np.nan, "unet/conv_in/bias of the model is not finite; fetch the base again"),
        ("unet", np.inf, "unet/conv_in/bias of the model is not finite"),
        ("vae", np.nan, "vae/post_quant_conv/bias of the model is not finite"),
        ("unet", 3e38, "but its outputs overflow"),
    ],
)
def test_the_error_for_pictures_of_nan_names_the_cause(tiny_sd, part, value, cause):
    with pytest.raises(UserError) as raised:
        tiny_sd.generate(PROMPTS, params=changed(tiny_sd.params, part, value), **QUICK)
    assert "picture 1, 2 of 2 came out as NaN or infinity, which would be black" in str(raised.value)
    assert cause in str(raised.value)


def test_only_the_picture_that_failed_is_named(tiny_sd):
    latents = np.random.default_rng(0).standard_normal((2, 8, 8, 4), np.float32)
    latents[1, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match=r"picture 2 of 2 .*: the given latents are not finite"):
        tiny_sd.generate(PROMPTS, latents=latents, **QUICK)


def test_half_precision_is_named_as_the_cause_if_nothing_else_is_wrong():
    models, latents = make_models(tiny_configs(40), dtype=jnp.bfloat16), np.zeros((1, 8, 8, 4), np.float32)
    assert "overflowed in half precision; load the model with dtype float32" in explain_pictures(
        models, {}, latents, 5, [0]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 10**6}, "height must be at most 8192, not 1000000"),
        ({"width": 10**30}, "width must be at most 8192"),
        ({"height": 0}, "height 0 and width 16 must be multiples of 2"),
        ({"width": 7}, "must be multiples of 2"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, not nan"),
        ({"guidance_scale": 1e30}, "guidance_scale must be at most 1000"),
        ({"steps": 0}, "0 sampling steps"),
        ({"steps": 10**12}, "1000000000000 sampling steps"),
        ({"steps": 1001}, "1001 sampling steps"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 2**32}, "seed must be at most 4294967295"),
        ({"seed": 2**70}, "seed must be at most 4294967295"),
        ({"sampler": "fast"}, "sampler 'fast' is unknown"),
        ({"prompts": ["(man:1000000000)"]}, "the weight of 'man' must be at most"),
        ({"prompts": ["\udcff"]}, r"prompts: '\\udcff' is not valid Unicode"),
        ({"negative_prompts": ["(man:-1000000000)"]}, "the weight of 'man' must be at least"),
        ({"negative_prompts": ["a", "b", "c"]}, "3 negative prompts for 2 prompts"),
        ({"latents": [1, 2]}, r"latents \[\] must be"),
        ({"latents": np.zeros((2, 0, 8, 4), np.float32)}, r"latents \[2, 0, 8, 4\] must be"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_computed(tiny_sd, settings, message):
    with pytest.raises(UserError, match=message), jax.disable_jit():
        tiny_sd.generate(**{"prompts": PROMPTS, **QUICK, **settings})


@pytest.mark.parametrize("text", [None, 5, b"a man"])
def test_a_prompt_must_be_text(text):
    with pytest.raises(UserError, match="prompts must be texts, not"):
        check_texts([text], "prompts")


def test_braces_in_prompts_are_allowed(tiny_sd):
    assert tiny_sd.generate(["a {0} {} {x"], negative_prompts=[""], **QUICK).shape == (1, 16, 16, 3)
