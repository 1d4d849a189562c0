"""The packaged pocket model in PyTorch diffusers: the same weights and pictures, alone and with two adapters merged."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import merge
from blocklora_jax import StableDiffusion
from blocklora_jax.checkpoints.hub import find_source
from blocklora_jax.testing.random_adapter import random_adapter

PROMPTS = ["a photo of a dog on a beach", "a sketch of a man and a cat in a city"]
CALLED = ["a photo of <ada> woman on a beach", "a photo of <ada> woman and <bob> dog in a city"]
STEPS, GUIDANCE = 4, 5.0


@pytest.fixture(scope="module")
def sd():
    return StableDiffusion.from_pretrained("pocket")


def open_in_torch(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents():
    return np.random.default_rng(0).standard_normal((2, 16, 16, 8), np.float32)


def torch_pictures(pipeline, prompts):
    noise = torch.from_numpy(np.ascontiguousarray(latents().transpose(0, 3, 1, 2)))
    with torch.no_grad():
        images = pipeline(
            prompts, latents=noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np"
        ).images
    return np.round(images * 255).astype(int)


def our_pictures(sd, prompts, **options):
    return sd.generate(
        prompts, latents=latents(), sampler="ddim", steps=STEPS, guidance_scale=GUIDANCE, **options
    ).astype(int)


def test_pocket_model_makes_the_same_pictures_in_pytorch(sd):
    ours = our_pictures(sd, PROMPTS)
    assert ours.std() > 20
    assert np.abs(ours - torch_pictures(open_in_torch(find_source("pocket", None).fetch([])), PROMPTS)).max() <= 2


def test_exported_adapters_make_the_same_pictures_on_the_pocket_model(sd, tmp_path):
    adapters = [
        random_adapter(name, sd.params, slots=(slot,), layers="cross_kv+text_encoder", size=0.1)
        for slot, name in enumerate(("ada", "bob"))
    ]
    params = merge.compose(sd.params, adapters)
    merge.export(adapters, tmp_path / "merged.safetensors")
    pipeline = open_in_torch(find_source("pocket", None).fetch([]))
    pipeline.load_textual_inversion([str(path) for path in sorted(tmp_path.glob("merged.*.safetensors"))])
    pipeline.load_lora_weights(str(tmp_path / "merged.safetensors"))
    pipeline.fuse_lora()
    ours = our_pictures(sd, CALLED, params=params, adapters=adapters)
    assert np.abs(ours - torch_pictures(pipeline, CALLED)).max() <= 2
    assert np.abs(ours - our_pictures(sd, PROMPTS)).max() > 50


def test_merged_pocket_folder_makes_the_same_pictures_in_pytorch(sd, tmp_path):
    adapters = [random_adapter(name, sd.params, slots=(slot,), size=0.1) for slot, name in ((2, "ada"), (3, "bob"))]
    params = merge.compose(sd.params, adapters, [1.0, 0.8])
    sd.save(tmp_path / "merged", params=params, adapters=adapters)
    ours = our_pictures(sd, CALLED, params=params, adapters=adapters)
    assert np.abs(ours - torch_pictures(open_in_torch(tmp_path / "merged"), CALLED)).max() <= 2
