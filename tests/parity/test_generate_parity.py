"""Whole pictures equal those of diffusers' `StableDiffusionPipeline` for the same weights, latents and token ids."""

from __future__ import annotations

import functools

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from torch_models import as_jax, normal, randomise, state_arrays, torch_image

from blocklora_jax.diffusion.generate import Models, generate
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.layouts.torch_names import to_flax
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL

REFERENCE = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
}
VAE = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 10,
    "bos_token_id": 38,
    "eos_token_id": 39,
    "pad_token_id": 39,
}
CONCEPT_TOKENS = 3
IDS = np.array([[38, 5, 40, 41, 42, 7, 39, 39, 39, 39], [38, 11, 12, 3, 9, 39, 39, 39, 39, 39]])
EMPTY = np.array([[38] + [39] * 9] * 2)
LATENTS = normal(5, 2, 8, 8, 4)


@functools.cache
def torch_pipeline() -> diffusers.StableDiffusionPipeline:
    """A small pipeline of random weights. Its token table has three more rows than its config says: concept tokens."""
    torch.manual_seed(0)
    text = randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), 1)
    text.resize_token_embeddings(TEXT["vocab_size"] + CONCEPT_TOKENS)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=randomise(diffusers.AutoencoderKL(**VAE), 2),
        text_encoder=text,
        tokenizer=None,
        unet=randomise(diffusers.UNet2DConditionModel(**UNET), 3),
        scheduler=diffusers.DDIMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def our_models() -> Models:
    return Models(
        UNet2DConditionModel(UNetConfig(**UNET)),
        AutoencoderKL(VAEConfig(**VAE)),
        CLIPTextModel(TextConfig(**TEXT)),
    )


@functools.cache
def our_params() -> dict:
    pipeline = torch_pipeline()
    modules = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    return {name: as_jax(to_flax(name, state_arrays(module))) for name, module in modules.items()}


def reference_pictures(
    sampler: str, config: dict, guidance_scale: float, num_steps: int, guidance_rescale: float = 0.0
) -> np.ndarray:
    pipeline = torch_pipeline()
    pipeline.scheduler = REFERENCE[sampler].from_config(config)
    with torch.no_grad():
        prompt, negative = (pipeline.text_encoder(torch.from_numpy(ids))[0] for ids in (IDS, EMPTY))
    pictures = pipeline(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        latents=torch_image(LATENTS),
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        num_inference_steps=num_steps,
        output_type="pil",
    ).images
    return np.stack([np.asarray(picture) for picture in pictures])


# Each case is another program to compile. So only one sampler is tested without guidance: guidance does not depend on
# the sampler.
CASES = [
    *((sampler, prediction, 3.0) for sampler in REFERENCE for prediction in ("epsilon", "v_prediction")),
    ("ddim", "epsilon", 1.0),
]


@pytest.mark.parametrize(("sampler", "prediction", "guidance_scale"), CASES)
def test_pictures_equal_the_pytorch_pipeline(sampler, prediction, guidance_scale):
    config = {**SCHEDULER, "prediction_type": prediction}
    expected = reference_pictures(sampler, config, guidance_scale, 6)
    schedule = Schedule.from_json(config, "test")
    ours = generate(our_models(), our_params(), schedule, sampler, IDS, EMPTY, LATENTS, guidance_scale, 6)
    assert expected.std() > 10 and (expected[0] != expected[1]).any()
    # Two levels of 255: single-precision differences over a trajectory, then rounding to bytes.
    assert np.abs(np.asarray(ours).astype(int) - expected).max() <= 2


def test_zero_terminal_snr_with_rescaled_guidance_equals_the_pytorch_pipeline():
    trained = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    config, run = {**SCHEDULER, **trained}, ("euler", 6.0)
    expected = reference_pictures(run[0], config, run[1], 6, guidance_rescale=0.7)
    schedule = Schedule.from_json(config, "test")
    args = (our_models(), our_params(), schedule, run[0], IDS, EMPTY, LATENTS, run[1], 6)
    ours = np.asarray(generate(*args, guidance_rescale=0.7)).astype(int)
    assert np.abs(ours - expected).max() <= 2  # as above
    assert np.abs(np.asarray(generate(*args)) - ours).max() > 5


def test_guidance_moves_the_picture_further_than_the_tolerance_above():
    plain, guided = (reference_pictures("ddim", SCHEDULER, scale, 6).astype(int) for scale in (1.0, 3.0))
    assert np.abs(plain - guided).max() > 10


def test_reading_concept_tokens_changes_the_picture():
    schedule = Schedule.from_json(SCHEDULER, "test")
    plain = np.where(np.isin(IDS, [40, 41, 42]), 6, IDS)
    pictures = [
        np.asarray(generate(our_models(), our_params(), schedule, "ddim", ids, EMPTY, LATENTS, 3.0, 6))
        for ids in (IDS, plain)
    ]
    assert (pictures[0][0] != pictures[1][0]).any()
    assert np.abs(pictures[0][1].astype(int) - pictures[1][1]).max() == 0


def test_bf16_modules_give_nearly_the_same_picture():
    schedule = Schedule.from_json(SCHEDULER, "test")
    models = Models(*(module and module.clone(dtype=jnp.bfloat16) for module in our_models()))
    args = (our_params(), schedule, "ddim", IDS, EMPTY, LATENTS, 3.0, 6)
    full, half = (np.asarray(generate(m, *args)).astype(int) for m in (our_models(), models))
    # A mean of 3 levels of 255: bf16 keeps 8 bits.
    assert 0 < np.abs(full - half).mean() < 3
