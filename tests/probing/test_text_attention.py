"""Attention by text position compared with PyTorch diffusers, and its effect on the inputs of a joint fit."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import merge
from blocklora_jax import StableDiffusion
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.diffusion.generate import draw_latents
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.input_statistics import measure_inputs
from blocklora_jax.probing.probe import own_tokens, with_tokens
from blocklora_jax.probing.text_attention import TextAttention
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import save_tiny, tiny_configs

PROMPTS = ["a photo of a man and a dog", "a drawing of an owl in the snow"]
BOTH = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "man"), scenes=("on the beach",))
FEW = ConversionConfig(prompts=16, random_prompts=32, steps=1)


class Recording:
    """The plain attention of diffusers, which also records the mean weight of every text position."""

    def __init__(self):
        self.seen = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(y) for y in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)))
        weights = attn.get_attention_scores(q, k)
        if encoder_hidden_states is not None:
            self.seen.append(weights.unflatten(0, (len(text), -1)).mean((1, 2)).numpy())
        return attn.to_out[0](attn.batch_to_head_dim(weights @ v))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_attention_is_that_of_diffusers_over_a_trajectory(family, tmp_path):
    unet = replace(tiny_configs(40, family=family)["unet"], **BOTH, attention_head_dim=(2, 4))
    folder = save_tiny(tmp_path / "m", family, {"unet": unet})
    sd, seed = StableDiffusion.from_pretrained(folder), 3
    ours = TextAttention(sd, steps=2, chunk=2)(sd.params, None, sd.tokenizer.encode(PROMPTS), seed)
    pipeline, recorded = DiffusionPipeline.from_pretrained(folder, local_files_only=True), Recording()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.set_attn_processor(recorded)
    noise = draw_latents(sd.models, jax.random.fold_in(jax.random.key(seed), 0), 2, sd.image_size, sd.image_size)
    with torch.no_grad():
        latents = torch.from_numpy(np.array(noise).transpose(0, 3, 1, 2).copy())
        pipeline(PROMPTS, latents=latents, guidance_scale=1.0, num_inference_steps=2, output_type="latent")
    expected = np.mean(recorded.seen, axis=0)
    # fp32 over two steps and all layers. The weights are about .04.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    # Compared with this tolerance, the weights are far from uniform.
    assert np.ptp(expected) > 1e-2


def test_attention_under_an_adapter_is_that_of_its_merge(tiny_sd):
    adapter = random_adapter("ada", tiny_sd.params, slots=(1,), size=0.3, layers="attention")
    ids = tiny_sd.tokenizer.encode(["a photo of <ada> man"] * 3, token_counts([adapter]))
    # The params with the adapter's tokens.
    params, attention = with_tokens(tiny_sd.params, own_tokens(tiny_sd, adapter)), TextAttention(tiny_sd, chunk=2)
    adapted, base = attention(params, adapter, ids), attention(params, None, ids)
    np.testing.assert_allclose(adapted, attention(merge.compose(tiny_sd.params, [adapter]), None, ids), atol=1e-5)
    np.testing.assert_allclose(adapted.sum(1), 1, atol=1e-5)
    assert np.abs(adapted - base).max() > 1e-3
    # Every prompt has its own noise.
    assert np.abs(adapted[0] - adapted[1]).max() > 1e-6 and np.abs(adapted[0] - adapted[2]).max() > 1e-6


def test_text_positions_are_weighted_by_their_attention(tiny_sd, monkeypatch):
    """With all attention on the first position, only what layers read there counts, apart from the uniform share."""
    adapters = [
        random_adapter(name, tiny_sd.params, slots=(), layers="attention", partition=None) for name in ("ada", "rex")
    ]
    monkeypatch.setattr(
        TextAttention,
        "__call__",
        lambda self, params, adapter, ids, seed, weight: np.eye(ids.shape[-1])[np.zeros(len(ids), int)],
    )
    monkeypatch.setattr("blocklora_jax.probing.input_statistics.EVEN", 0.0)
    plain, attended = (measure_inputs(tiny_sd, adapters, WORDS, FEW, attention=on) for on in (False, True))
    for layer, grams in attended.grams.items():
        for gram, all_alike in zip(grams, plain.grams[layer], strict=True):
            # Thus 1e-4 is far above the rounding of fp32.
            assert np.trace(gram) == pytest.approx(1)
            if "attn2/to_k" in layer or "attn2/to_v" in layer:
                # The first position attends only to itself, so its state is the same for every prompt.
                assert np.linalg.matrix_rank(gram, tol=1e-4) == 1 < np.linalg.matrix_rank(all_alike, tol=1e-4)
            else:
                assert np.linalg.matrix_rank(gram, tol=1e-4) > 1
