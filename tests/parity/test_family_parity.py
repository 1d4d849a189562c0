"""Stable Diffusion 2.x and SDXL from prompt to picture: our folder, opened by diffusers and by us."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from blocklora_jax import StableDiffusion
from blocklora_jax.testing.tiny_model import save_tiny, tiny_configs

PROMPTS = ["a photo of a man!", "a drawing of a dog in the snow"]
BOTH = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
CASES = {
    "2.1, velocity": ("sd2", {}, {}, {}),
    "2.0 base, noise": ("sd2", {}, {"prediction_type": "epsilon"}, {"negative_prompt": ["an owl", ""]}),
    "2.x, attention everywhere, not square": ("sd2", BOTH, {}, {"height": 24, "width": 16}),
    "SDXL, zeros for the empty prompt": ("sdxl", {}, {}, {}),
    "SDXL, negative prompts and sizes": (
        "sdxl",
        {"transformer_layers_per_block": (1, 3), "layers_per_block": 2},
        {},
        {
            "negative_prompt": ["an owl", ""],
            "original_size": (512, 300),
            "crops_coords_top_left": (7, 90),
            "target_size": (64, 32),
        },
    ),
    "SDXL, attention everywhere, velocity, not square": (
        "sdxl",
        BOTH,
        {"prediction_type": "v_prediction"},
        {"height": 24, "width": 16},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_pictures_equal_the_pytorch_pipeline(name, tmp_path):
    family, changes, scheduler, options = CASES[name]
    unet = replace(tiny_configs(40, family=family)["unet"], **changes)
    folder = save_tiny(tmp_path / "m", family, {"unet": unet} if changes else None, **scheduler)
    sides = options.get("height", 16) // 2, options.get("width", 16) // 2
    latents = np.random.default_rng(0).standard_normal((2, *sides, 4), np.float32)
    shared = {"guidance_scale": 4.0, **options}
    expected = torch_pictures(folder, latents, shared)
    ours = StableDiffusion.from_pretrained(folder).generate(
        PROMPTS, latents=latents, steps=3, sampler="ddim", **rename(shared)
    )
    assert expected.std() > 10 and (expected[0] != expected[1]).any()
    # Two levels of 255: single-precision differences over a trajectory, then rounding to bytes.
    assert np.abs(ours.astype(int) - expected).max() <= 2


def rename(options: dict) -> dict:
    names = {"negative_prompt": "negative_prompts"}
    return {names.get(name, name): value for name, value in options.items()}


def torch_pictures(folder, latents: np.ndarray, options: dict) -> np.ndarray:
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    noise = torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        images = pipeline(PROMPTS, latents=noise, num_inference_steps=3, output_type="np", **options).images
    return np.round(images * 255).astype(int)
