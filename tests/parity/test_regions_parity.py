"""Regions compared with diffusers and an attention processor that chooses prompts by place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from blocklora_jax import Region, StableDiffusion
from blocklora_jax.testing.tiny_model import save_tiny, tiny_configs

PROMPTS = ["a photo of a man and a dog", "a drawing of an owl in the snow"]
LEFT, RIGHT = ["a man", "an owl"], ["a dog", "snow"]
# The second overlaps the first, and together they leave some of the picture free.
BOXES = ((0.0, 0.0, 0.5, 1.0), (0.25, 0.25, 0.9, 1.0))
BOTH = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
HEIGHT, WIDTH = 24, 16


class Regional:
    """Cross-attention, pixel by pixel. In the guided half, the pixels of a region attend to the region's text."""

    def __init__(self, texts: list[torch.Tensor]):
        self.texts = texts

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        answer = self.answer(attn, hidden_states, encoder_hidden_states)
        if encoder_hidden_states is None:
            return answer
        half, pixels = len(hidden_states) // 2, hidden_states.shape[1]
        local = [self.answer(attn, hidden_states[half:], text) for text in self.texts]
        height = next(h for h in (12, 6, 3) if h * (h * 2 // 3) == pixels)
        width = height * 2 // 3
        for pixel in range(pixels):
            y, x = (pixel // width + 0.5) / height, (pixel % width + 0.5) / width
            inside = [i for i, (left, top, right, low) in enumerate(BOXES) if left <= x < right and top <= y < low]
            if inside:
                answer[half:, pixel] = sum(local[i][:, pixel] for i in inside) / len(inside)
        return answer

    @staticmethod
    def answer(attn, x, text):
        text = x if text is None else text
        q, k, v = (attn.head_to_batch_dim(y) for y in (attn.to_q(x), attn.to_k(text), attn.to_v(text)))
        return attn.to_out[0](attn.batch_to_head_dim(attn.get_attention_scores(q, k) @ v))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_pictures_with_regions_equal_the_pytorch_pipeline(family, tmp_path):
    unet = replace(tiny_configs(40, family=family)["unet"], **BOTH)
    folder = save_tiny(tmp_path / "m", family, {"unet": unet})
    latents = np.random.default_rng(0).standard_normal((2, HEIGHT // 2, WIDTH // 2, 4), np.float32)
    regions = [[Region(a, BOXES[0]), Region(b, BOXES[1])] for a, b in zip(LEFT, RIGHT, strict=True)]
    sd = StableDiffusion.from_pretrained(folder)
    shared = {"latents": latents, "steps": 3, "sampler": "ddim", "guidance_scale": 4.0}
    ours = sd.generate(PROMPTS, regions=regions, **shared).astype(int)
    expected = torch_pictures(folder, latents)
    # Two levels of 255: fp32 differences over a trajectory, then rounding to bytes. The regions change far more.
    assert np.abs(expected - sd.generate(PROMPTS, **shared)).max() > 20
    assert np.abs(ours - expected).max() <= 2


def torch_pictures(folder, latents: np.ndarray) -> np.ndarray:
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        plainly = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        texts = [pipeline.encode_prompt(prompt=words, **plainly)[0] for words in (LEFT, RIGHT)]
        pipeline.unet.set_attn_processor(Regional(texts))
        noise = torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2)))
        sizes = {"height": HEIGHT, "width": WIDTH, "guidance_scale": 4.0, "num_inference_steps": 3}
        images = pipeline(PROMPTS, latents=noise, output_type="np", **sizes).images
    return np.round(images * 255).astype(int)
