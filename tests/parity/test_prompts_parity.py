"""Long prompts, weights and clip skip: states and pictures equal those computed with transformers and diffusers."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from blocklora_jax import StableDiffusion
from blocklora_jax.diffusion.models import with_clip_skip, with_token_rows
from blocklora_jax.diffusion.text import encode_prompt
from blocklora_jax.prompts.chunks import encode_prompts
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import SIZE, TOKENS, save_tiny

ROOM = TOKENS - 2
SHORT = "an owl on the beach"
LONG = "a photo of a dog in the snow and " * 4
ADA = "<ada> <ada>_1"  # the concept's vectors, as diffusers reads them


class Case(NamedTuple):
    """A prompt for us, and the same prompt as words with weights for the independent computation."""

    family: str
    prompt: str
    spans: list[tuple[str, float]]
    skip: int


CASES = {
    "long": Case("sd1", LONG, [(LONG, 1.0)], 0),
    "weights": Case(
        "sd1",
        "a (drawing:1.4) of [a dog] (on)",
        [("a", 1.0), ("drawing", 1.4), ("of", 1.0), ("a dog", 1 / 1.1), ("on", 1.1)],
        0,
    ),
    "clip skip": Case("sd1", SHORT, [(SHORT, 1.0)], 1),
    "a concept within weights of a long prompt, with clip skip": Case(
        "sd1", LONG + "(the <ada>:1.3) man", [(LONG, 1.0), (f"the {ADA}", 1.3), ("man", 1.0)], 1
    ),
    "SDXL, long": Case("sdxl", LONG, [(LONG, 1.0)], 0),
    "SDXL, everything": Case("sdxl", LONG + "[<ada>] (man:-0.5)", [(LONG, 1.0), (ADA, 1 / 1.1), ("man", -0.5)], 1),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{family: (our model with a concept, the same model in PyTorch)}."""
    both = {}
    for family in ("sd1", "sdxl"):
        folder = tmp_path_factory.mktemp(family)
        sd = StableDiffusion.from_pretrained(save_tiny(folder / "base", family))
        model = sd.with_adapters([random_adapter("ada", sd.params, slots=(1,))])
        model.save(folder / "merged")
        pipeline = DiffusionPipeline.from_pretrained(folder / "merged", local_files_only=True, safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        both[family] = model, pipeline
    return both


@torch.no_grad()
def torch_text(pipeline, spans, skip: int, chunks: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States [1, chunks * t, d] and the pooled text, by transformers."""
    parts, pooled, is_xl = [], None, hasattr(pipeline, "text_encoder_2")
    for end in ("", "_2") if is_xl else ("",):
        tokenizer, encoder = getattr(pipeline, f"tokenizer{end}"), getattr(pipeline, f"text_encoder{end}")
        tokens = [(i, w) for text, w in spans for i in tokenizer(text, add_special_tokens=False).input_ids]
        empty = states_of(tokenizer, encoder, [], skip, is_xl)[0]
        joined = []
        for k in range(chunks):
            chunk = tokens[k * ROOM : (k + 1) * ROOM]
            states, output = states_of(tokenizer, encoder, [i for i, _ in chunk], skip, is_xl)
            weights = torch.tensor([1.0, *(w for _, w in chunk), *[1.0] * (ROOM + 1 - len(chunk))])[None, :, None]
            joined.append(empty + weights * (states - empty))
            pooled = output[0] if is_xl and k == 0 else pooled
        parts.append(torch.cat(joined, 1))
    return torch.cat(parts, -1), pooled


def states_of(tokenizer, encoder, ids: list[int], skip: int, is_xl: bool):
    ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    output = encoder(torch.tensor([ids + [tokenizer.pad_token_id] * (TOKENS - len(ids))]), output_hidden_states=True)
    if is_xl:
        return output.hidden_states[-2 - skip], output
    norm = getattr(encoder, "text_model", encoder).final_layer_norm  # transformers 5 has no text_model
    return norm(output.hidden_states[-1 - skip]), output


@pytest.mark.parametrize("name", CASES)
def test_states_equal_those_of_transformers(name, models):
    case = CASES[name]
    model, pipeline = models[case.family]
    sd = model.base
    prompt = encode_prompts(sd.tokenizer, [SHORT, case.prompt], {"<ada>": 2})
    got = encode_prompt(with_clip_skip(with_token_rows(sd.models, model.params), case.skip), model.params, prompt)
    chunks = got.states.shape[1] // TOKENS
    for row, spans in enumerate(([(SHORT, 1.0)], case.spans)):
        states, pooled = torch_text(pipeline, spans, case.skip, chunks)
        # 1e-5 of states near 1: single precision.
        np.testing.assert_allclose(got.states[row], states[0], atol=1e-5 * float(states.abs().max()))
        if pooled is not None:
            np.testing.assert_allclose(got.pooled[row], pooled[0], atol=1e-5 * float(pooled.abs().max()))


@pytest.mark.parametrize("name", ["a concept within weights of a long prompt, with clip skip", "SDXL, everything"])
def test_pictures_equal_the_pytorch_pipeline(name, models):
    case = CASES[name]
    model, pipeline = models[case.family]
    chunks = -(-sum(len(pipeline.tokenizer(t, add_special_tokens=False).input_ids) for t, _ in case.spans) // ROOM)
    assert chunks == 2
    embeds = {}
    for prefix, spans in (("", case.spans), ("negative_", [(SHORT, 1.0)])):
        embeds[f"{prefix}prompt_embeds"], pooled = torch_text(pipeline, spans, case.skip, chunks)
        embeds |= {} if pooled is None else {f"{prefix}pooled_prompt_embeds": pooled}
    latents = np.random.default_rng(0).standard_normal((1, SIZE // 2, SIZE // 2, 4)).astype(np.float32)
    noise = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy())
    expected = pipeline(
        latents=noise, guidance_scale=4.0, num_inference_steps=3, height=SIZE, width=SIZE, output_type="np", **embeds
    ).images
    settings = {"latents": latents, "guidance_scale": 4.0, "steps": 3, "sampler": "ddim", "negative_prompts": [SHORT]}
    ours = model.generate([case.prompt], clip_skip=case.skip, **settings).astype(int)
    # Two levels of 255: single-precision differences over a trajectory, then rounding to bytes.
    assert np.abs(ours - np.round(expected * 255)).max() <= 2
    plain = model.generate([case.prompt.replace("1.3", "1").replace("-0.5", "1")], **settings)
    assert np.abs(ours - plain).max() > 5


def test_a_picture_does_not_depend_on_the_length_of_the_other_prompts(models):
    model, _ = models["sd1"]
    settings = {"steps": 2, "sampler": "ddim", "seed": 3}
    prompts = [SHORT, LONG, "a (dog:1.5)"]
    together = model.generate(prompts, **settings).astype(int)
    for count in (1, 2):
        # One level of 255: other batch sizes round differently.
        assert np.abs(model.generate(prompts[:count], **settings) - together[:count]).max() <= 1
    assert all((a != b).any() for a, b in itertools.pairwise(together))
