"""LoRA files in every layout of every family, compared with PyTorch diffusers, peft, and the rules of ComfyUI."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from comfy_rules import key_map, read_patches
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.numpy import load_file, save_file
from torch_lora import kohya_file, random_lora, torch_weights

import merge
from blocklora_jax import Adapter
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.layouts.ldm import unet_name, unet_prefixes
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.small_families import FAMILIES, make_family

CONVOLUTIONS = (
    "resnets.0.conv1",
    "resnets.1.conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "proj_in",
)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    """(family, checkpoint, its folder)."""
    base = tmp_path_factory.mktemp(request.param)
    checkpoint = make_family(request.param, base)
    save_folder(base / "folder", checkpoint)
    return request.param, checkpoint, base / "folder"


def open_in_torch(family, folder):
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    return kind.from_pretrained(folder, local_files_only=True)


def torch_state(pipeline, part):
    state = {key: value.detach().numpy().copy() for key, value in getattr(pipeline, part).state_dict().items()}
    plain = part == "unet" or any(key.startswith("text_model.") for key in state)
    return state if plain else {f"text_model.{key}": value for key, value in state.items()}


def assert_weights(pipeline, params, base_params, parts):
    for part in parts:
        state, before, changed = torch_state(pipeline, part), to_torch(part, base_params[part]), 0
        for key, array in to_torch(part, params[part]).items():
            # Concept tokens have files of their own.
            array = array[: len(before[key])]
            # fp32: both add a product of rank 7 at most; entries are of size 1.
            np.testing.assert_allclose(state[key], array, atol=1e-6, rtol=0, err_msg=f"{part} {key}")
            changed += bool(np.abs(state[key] - before[key]).max() > 1e-2)
        assert changed >= 4, part


def adapters_of(checkpoint, folder):
    """An adapter of ours with all its layers, and an external LoRA with convolutions."""
    ours = random_adapter("ada", checkpoint.params, slots=(0,), layers="full+text_encoder", vectors=0, rank=3)
    rng, layers = np.random.default_rng(1), {}
    for key, weight in torch_weights(checkpoint.params, "unet").items():
        name = key.removesuffix(".weight")
        if name.endswith(CONVOLUTIONS):
            layers["lora_unet_" + name.replace(".", "_")] = random_lora(weight, 1 + len(layers) % 4, rng)
    alphas = dict.fromkeys(list(layers)[::2], 1.5)
    save_file(kohya_file(layers, alphas), folder.parent / "conv.safetensors")
    return [ours, Adapter.load(folder.parent / "conv.safetensors")]


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_exported_merge_has_our_weights_in_diffusers_and_by_the_rules_of_comfyui(model, tmp_path, layout):
    family, checkpoint, folder = model
    adapters = adapters_of(checkpoint, folder)
    parts = [part for part in checkpoint.params if part != "vae"]
    params = merge.compose(checkpoint.params, adapters, [1.0, 0.7], allow_overlap=True)
    path = merge.export(adapters, tmp_path / "m.safetensors", layout, [1.0, 0.7], allow_overlap=True)[0]
    pipeline = open_in_torch(family, folder)
    config = dict(pipeline.unet.config)
    states = {part: torch_state(pipeline, part) for part in parts}
    pipeline.load_lora_weights(str(path))
    pipeline.fuse_lora(components=parts)
    pipeline.unload_lora_weights()
    assert_weights(pipeline, params, checkpoint.params, parts)
    if layout == "kohya":
        prefixes = unet_prefixes(states["unet"])
        ldm = ["model.diffusion_model." + unet_name(key, prefixes) for key in states["unet"]]
        names = key_map(ldm, config, [states[part] for part in parts if part != "unet"])
        changes, left = read_patches(load_file(path), names)
        assert not left
        merged = {part: to_torch(part, params[part]) for part in parts}
        for (part, key), delta in changes.items():
            np.testing.assert_allclose(states[part][key] + delta, merged[part][key], atol=1e-6, rtol=0, err_msg=key)
        assert len(changes) == sum(len(layers) for layers in _layers(adapters).values())


def _layers(adapters):
    names = {}
    for adapter in adapters:
        for component, layers in adapter.lora.items():
            names.setdefault(component, set()).update(layers)
    return names


def test_files_that_peft_and_diffusers_write_compose_to_their_fused_weights(model, tmp_path):
    family, checkpoint, folder = model
    pipeline, states, metadata = open_in_torch(family, folder), {}, {}
    torch.manual_seed(0)
    targets = {"unet": ["to_q", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.2"]}
    targets |= {part: ["q_proj", "fc1"] for part in checkpoint.params if part.startswith("text_encoder")}
    for part, names in targets.items():
        # Both factors are random, or fusing would change nothing.
        settings = LoraConfig(
            r=2, lora_alpha=3, target_modules=names, rank_pattern={names[0]: 4}, alpha_pattern={names[1]: 5.0},
            init_lora_weights=False,
        )  # fmt: skip
        module = getattr(pipeline, part)
        # peft is called directly: the wrapper in transformers may need a version of peft that is not published yet.
        inject_adapter_in_model(settings, module)
        states[part] = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        metadata[part] = module.peft_config["default"].to_dict()
    kind = type(pipeline)
    arguments = {"unet_lora_layers": states["unet"], "text_encoder_lora_layers": states["text_encoder"]}
    arguments |= {"unet_lora_adapter_metadata": metadata["unet"]}
    arguments |= {"text_encoder_lora_adapter_metadata": metadata["text_encoder"]}
    if family == "sdxl":
        arguments["text_encoder_2_lora_layers"] = states["text_encoder_2"]
        arguments["text_encoder_2_lora_adapter_metadata"] = metadata["text_encoder_2"]
    kind.save_lora_weights(tmp_path, **arguments)
    pipeline.fuse_lora(components=list(targets))
    pipeline.unload_lora_weights()
    adapter = Adapter.load(tmp_path / "pytorch_lora_weights.safetensors")
    params = merge.compose(checkpoint.params, [adapter])
    assert_weights(pipeline, jax.device_get(params), checkpoint.params, targets)
