"""Image to image and inpainting equal diffusers' pipelines, on random weights."""

from __future__ import annotations

import sys

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from blocklora_jax.testing.tiny_model import SCHEDULE, SIZE

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}
PROMPT = "a photo of a man"
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
MASK = np.zeros((SIZE, SIZE), np.uint8)
MASK[4:12, 6:] = 255
NOISE = RNG.standard_normal((1, SIZE // 2, SIZE // 2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def pipelines(tiny_folder):
    """(image to image, inpainting), of the same modules."""
    whole = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(
        tiny_folder, local_files_only=True, safety_checker=None
    )
    parts = diffusers.StableDiffusionInpaintPipeline(**whole.components, requires_safety_checker=False)
    for pipeline in (whole, parts):
        pipeline.set_progress_bar_config(disable=True)
    return whole, parts


def reference(pipeline, sampler: str, monkeypatch, **options) -> np.ndarray:
    """The picture of diffusers, with our noise, and with the mean of the encoder instead of a draw."""
    module = sys.modules[type(pipeline).__module__]
    noise = torch.from_numpy(NOISE.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    monkeypatch.setattr(module, "retrieve_latents", lambda output, **_: output.latent_dist.mode())
    pipeline.scheduler = SCHEDULERS[sampler].from_config(SCHEDULE.to_json())
    options |= {"image": Image.fromarray(IMAGE), "guidance_scale": 4.0, "output_type": "np"}
    with torch.no_grad():
        return np.round(pipeline(PROMPT, **options).images * 255).astype(int)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_image_to_image_equals_diffusers(sampler, pipelines, tiny_sd, monkeypatch):
    expected = reference(pipelines[0], sampler, monkeypatch, num_inference_steps=6, strength=0.7)
    settings = {"image": IMAGE, "guidance_scale": 4.0, "steps": 6, "sampler": sampler, "latents": NOISE}
    ours = tiny_sd.generate([PROMPT], strength=0.7, **settings).astype(int)
    # Two levels of 255: single-precision differences over a trajectory, then rounding to bytes.
    assert np.abs(ours - expected).max() <= 2
    assert np.abs(expected - IMAGE).max() > 5


@pytest.mark.parametrize(("sampler", "strength"), [("ddim", 0.7), ("dpmpp_2m", 1.0), ("heun", 0.7)])
def test_inpainting_equals_diffusers(sampler, strength, pipelines, tiny_sd, monkeypatch):
    options = {"mask_image": Image.fromarray(MASK), "height": SIZE, "width": SIZE, "strength": strength}
    expected = reference(pipelines[1], sampler, monkeypatch, num_inference_steps=6, **options)
    settings = {"guidance_scale": 4.0, "steps": 6, "sampler": sampler, "latents": NOISE, "strength": strength}
    ours = tiny_sd.generate([PROMPT], image=IMAGE, mask=MASK, **settings).astype(int)
    assert np.abs(ours - expected).max() <= 2  # as above
    anew = tiny_sd.generate([PROMPT], image=IMAGE, **settings)
    assert np.abs(ours - anew).max() > 5
