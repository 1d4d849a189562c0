"""Exported adapters and merged folders, opened by PyTorch diffusers: its weights and pictures equal ours."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.numpy import load_file

import merge
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main

PROMPTS = ["a photo of <ada> man and <bob> dog", "a photo of a man"]
STEPS, GUIDANCE = 3, 4.0
GRID = Partition(num_blocks=4, axis="grid", seed=3)


@pytest.fixture
def base(tiny_folder):
    return tiny_folder


@pytest.fixture
def sd(tiny_sd):
    return tiny_sd


def open_in_torch(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_export(pipeline, path, tokens, *, tokens_first: bool = False):
    """The pipeline with the LoRA fused and the tokens added."""
    files = [str(path.with_suffix(f".{token.strip('<>')}.safetensors")) for token in tokens]
    if hasattr(pipeline, "tokenizer_2"):
        load_in_both(pipeline, dict(zip(tokens, files, strict=True)))
        files = []
    if tokens_first and files:
        pipeline.load_textual_inversion(files)
    pipeline.load_lora_weights(str(path))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    if files and not tokens_first:
        pipeline.load_textual_inversion(files)
    return pipeline


def load_in_both(pipeline, files):
    """Load tokens of SDXL as in the documentation of diffusers."""
    for token, file in files.items():
        state = load_file(file)
        for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                torch.from_numpy(state[name]),
                token=token,
                text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
                tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
            )


def torch_state(pipeline, part):
    state = {key: value.detach().numpy() for key, value in getattr(pipeline, part).state_dict().items()}
    if part != "unet":
        # transformers 5 drops the prefix from the module's own names.
        whole = ("text_model.", "text_projection.")
        state = {key if key.startswith(whole) else f"text_model.{key}": x for key, x in state.items()}
    return state


def assert_weights_equal(pipeline, params, base_params):
    changed = 0
    for part in params.keys() - {"vae"}:
        state = torch_state(pipeline, part)
        before = to_torch(part, jax.device_get(base_params[part]))
        for key, array in to_torch(part, jax.device_get(params[part])).items():
            # fp32: both add a product of rank 2 to 8; entries are of size 1.
            np.testing.assert_allclose(state[key], array, atol=1e-6, rtol=0, equal_nan=False, err_msg=key)
            changed += array.shape != before[key].shape or bool(np.abs(state[key] - before[key]).max() > 1e-2)
    assert changed


def assert_pictures_equal(pipeline, sd, params, adapters, prompts=PROMPTS):
    latents = np.random.default_rng(0).standard_normal((len(prompts), 8, 8, 4), np.float32)
    ours = sd.generate(
        prompts, params=params, adapters=adapters, latents=latents, sampler="ddim", steps=STEPS, guidance_scale=GUIDANCE
    )
    with torch.no_grad():
        theirs = pipeline(
            prompts,
            latents=torch.from_numpy(np.ascontiguousarray(latents.transpose(0, 3, 1, 2))),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        ).images  # SDXL's sizes are the picture's own, and its empty prompt is zeros, as ours are by default
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 2
    plain = sd.generate(
        ["a photo of a man"], latents=latents[-1:], sampler="ddim", steps=STEPS, guidance_scale=GUIDANCE
    )
    # The adapters must change the pictures, or their parity would prove nothing.
    assert np.abs(ours[-1].astype(int) - plain[0].astype(int)).max() > 10


def two_adapters(sd, **options):
    one = random_adapter("ada", sd.params, slots=(0,), **options)
    return [one, random_adapter("bob", sd.params, slots=(1, 3), rank=3, vectors=1, **options)]


@pytest.mark.parametrize(
    ("layers", "partition"),
    [("attention+text_encoder", Partition(num_blocks=4)), ("full", GRID), ("cross_kv", Partition(num_blocks=5))],
)
def test_exported_merge_has_our_weights_and_pictures(sd, base, tmp_path, layers, partition):
    adapters, weights = two_adapters(sd, layers=layers, partition=partition), [1.0, 0.8]
    params = merge.compose(sd.params, adapters, weights)
    paths = merge.export(adapters, tmp_path / "merged.safetensors", weights=weights)
    names = {"merged.safetensors", "merged.ada.safetensors", "merged.bob.safetensors", "README.md"}
    assert {path.name for path in paths if path.parent == tmp_path} == names
    pipeline = load_export(open_in_torch(base), paths[0], merge.token_counts(adapters))
    assert_weights_equal(pipeline, params, sd.params)
    assert_pictures_equal(pipeline, sd, params, adapters)


@pytest.mark.parametrize("family", ["two_level_sd2", "two_level_xl"])
def test_exported_merges_of_later_models_have_our_weights_and_pictures(family, request, tmp_path):
    later = request.getfixturevalue(family)
    adapters = two_adapters(later, layers="full+text_encoder", size=0.2)
    params = merge.compose(later.params, adapters, [1.0, 0.8])
    path = merge.export(adapters, tmp_path / "merged.safetensors", weights=[1.0, 0.8])[0]
    pipeline = load_export(open_in_torch(later.checkpoint.name), path, merge.token_counts(adapters))
    assert_weights_equal(pipeline, params, later.params)
    assert_pictures_equal(pipeline, later, params, adapters)


def test_merged_folder_of_sdxl_opens_with_our_weights_and_pictures(two_level_xl, tmp_path):
    adapters = two_adapters(two_level_xl, layers="cross_kv+text_encoder")
    params = merge.compose(two_level_xl.params, adapters)
    two_level_xl.save(tmp_path / "merged", params=params, adapters=adapters)
    pipeline = open_in_torch(tmp_path / "merged")
    assert_weights_equal(pipeline, params, two_level_xl.params)
    assert_pictures_equal(pipeline, two_level_xl, params, adapters)


def test_tokens_may_be_loaded_before_the_lora(sd, base, tmp_path):
    adapters = two_adapters(sd)
    params = merge.compose(sd.params, adapters)
    path = merge.export(adapters, tmp_path / "merged.safetensors")[0]
    pipeline = load_export(open_in_torch(base), path, merge.token_counts(adapters), tokens_first=True)
    assert_weights_equal(pipeline, params, sd.params)


def test_single_unblocked_adapter_exports_with_a_negative_weight(sd, base, tmp_path):
    adapter = random_adapter("ada", sd.params, slots=(), partition=None, layers="full+text_encoder", size=0.2)
    params = merge.compose(sd.params, [adapter], [-0.7])
    path = merge.export(adapter, tmp_path / "one.safetensors", weights=[-0.7])[0]
    pipeline = load_export(open_in_torch(base), path, adapter.tokens)
    assert_weights_equal(pipeline, params, sd.params)
    assert_pictures_equal(pipeline, sd, params, [adapter], ["a photo of <ada> man", "a photo of a man"])


def test_adapters_of_different_layers_and_ranks_export_as_one_rank(sd, base, tmp_path):
    one = random_adapter("ada", sd.params, slots=(0,), layers="cross_kv", rank=4)
    other = random_adapter("bob", sd.params, slots=(0,), layers="text_encoder", rank=2)
    params = merge.compose(sd.params, [one, other])
    path = merge.export([one, other], tmp_path / "merged.safetensors")[0]
    with safe_open(path, framework="numpy") as file:
        keys = list(file.keys())
        ranks = {file.get_slice(key).get_shape()[0] for key in keys if "lora_A" in key}
    assert ranks == {4}
    assert_weights_equal(load_export(open_in_torch(base), path, merge.token_counts([one, other])), params, sd.params)


def test_text_encoder_without_attention_layers_loads(sd, base, tmp_path):
    plain = random_adapter("ada", sd.params, slots=(), partition=None, vectors=0)
    shapes = {"text_model/encoder/layers/1/mlp/fc1": (32, 48), "text_model/encoder/layers/1/mlp/fc2": (48, 32)}
    rng = np.random.default_rng(0)
    pairs = {
        layer: LoRAPair(*(0.3 * rng.standard_normal(shape, np.float32) for shape in ((n, 2), (2, m))))
        for layer, (n, m) in shapes.items()
    }
    adapter = dataclasses.replace(plain, lora={"text_encoder": pairs})
    params = merge.compose(sd.params, [adapter])
    path = merge.export(adapter, tmp_path / "mlp.safetensors")[0]
    assert_weights_equal(load_export(open_in_torch(base), path, ()), params, sd.params)


def test_half_precision_export_is_close(sd, base, tmp_path):
    adapters = two_adapters(sd)
    params = merge.compose(sd.params, adapters)
    path = merge.export(adapters, tmp_path / "merged.safetensors", dtype="float16")[0]
    state = torch_state(load_export(open_in_torch(base), path, merge.token_counts(adapters)), "unet")
    for key, array in to_torch("unet", jax.device_get(params["unet"])).items():
        # Two factors rounded to 11 bits each, of entries of size 1.
        np.testing.assert_allclose(state[key], array, atol=5e-3, rtol=0, err_msg=key)


def test_header_names_what_was_merged_and_nothing_that_diffusers_reads(sd, tmp_path):
    adapters = two_adapters(sd)
    with safe_open(merge.export(adapters, tmp_path / "m.safetensors", weights=[1, 0.5])[0], "numpy") as file:
        metadata, keys = file.metadata(), list(file.keys())
    assert metadata.keys() == {"format", "blocklora", "blocklora_digest", "blocklora_kind"}
    header = json.loads(metadata["blocklora"])
    assert header["adapters"] == ["ada", "bob"] and header["weights"] == [1.0, 0.5]
    assert not any("alpha" in key for key in keys)
    assert all(key.startswith(("unet.", "text_encoder.text_model.")) for key in keys)


def test_merged_folder_of_the_command_line_opens_with_our_weights_and_pictures(sd, base, tmp_path):
    adapters = two_adapters(sd)
    files = [tmp_path / f"{adapter.name}.safetensors" for adapter in adapters]
    for adapter, file in zip(adapters, files, strict=True):
        adapter.save(file)
    folder = tmp_path / "merged"
    main([*map(str, files), "--weights", "1", "0.8", "--model", str(base), "--save", str(folder)])
    params = merge.compose(sd.params, adapters, [1.0, 0.8])
    pipeline = open_in_torch(folder)
    assert_weights_equal(pipeline, params, sd.params)
    assert_pictures_equal(pipeline, sd, params, adapters)


def test_exported_file_of_the_command_line_is_that_of_python(sd, tmp_path):
    adapters = two_adapters(sd)
    files = [tmp_path / f"{adapter.name}.safetensors" for adapter in adapters]
    for adapter, file in zip(adapters, files, strict=True):
        adapter.save(file)
    merge.export(adapters, tmp_path / "python.safetensors", weights=[1.0, 0.8])
    out = tmp_path / "command.safetensors"
    main(["export", *map(str, files), "--layout", "diffusers", "--out", str(out), "--weights", "1", "0.8"])
    for suffix in (".safetensors", ".ada.safetensors", ".bob.safetensors"):
        expected, got = (load_file((tmp_path / name).with_suffix(suffix)) for name in ("python", "command"))
        assert got.keys() == expected.keys()
        assert all(np.array_equal(got[key], expected[key]) for key in expected)
