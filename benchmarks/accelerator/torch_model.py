"""The same models in PyTorch: diffusers' modules from the published configs, with random weights made on the device."""

from __future__ import annotations

from typing import Any

import torch

from blocklora_jax.testing.random_folder import SCHEDULER, read_configs


def device() -> torch.device:
    """The graphics card, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The card's name."""
    return torch.cuda.get_device_name() if device().type == "cuda" else "cpu"


def dtype() -> torch.dtype:
    """bfloat16 on the card."""
    return torch.bfloat16 if device().type == "cuda" else torch.float32


def wait() -> None:
    """Wait for the card."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Measure the most memory from now on."""
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_mib() -> int | None:
    """MiB of tensors at most; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**20) if device().type == "cuda" else None


def make(model: str, part: str, size: str) -> Any:
    """One component, frozen, in the memory layout that diffusers recommends."""
    raw = read_configs(model, small=size == "tiny")[part]
    with torch.device("meta"):
        module = _construct(part, raw)
    module = module.to_empty(device=device()).to(dtype=dtype()).requires_grad_(False).eval()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            torch.nn.init.normal_(tensor, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.02)
        else:
            # Positions, of which `to_empty` keeps only the shape.
            tensor.copy_(torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape))
    return module.to(memory_format=torch.channels_last) if part in ("unet", "vae") else module


def _construct(part: str, raw: dict[str, Any]) -> Any:
    if part in ("unet", "vae"):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(raw)
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    made: Any = CLIPTextConfig(**{key: value for key, value in raw.items() if key not in ("architectures", "dtype")})
    return (CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel)(made)


def scheduler() -> Any:
    """DDIM with Stable Diffusion's noise."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler.from_config({**SCHEDULER, "beta_start": 0.00085, "beta_schedule": "scaled_linear"})


def add_lora(unet: Any, name: str, rank: int, modules: list[str]) -> None:
    """An adapter of PEFT, with fp32 parameters, as diffusers' training scripts have it."""
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=modules), name)
    for key, parameter in unet.named_parameters():
        if ".lora_" in key:
            parameter.data = parameter.data.float()
