"""The other side: PyTorch diffusers with PEFT, with random weights of the same architecture."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks.speed.cases import GUIDANCE, RANK, Case
from benchmarks.speed.models import Configs, latent_side, model_configs, text_shape
from blocklora_jax.testing.random_folder import SCHEDULER


def prepare(case: Case) -> Callable[[], None]:
    """A function that does the work of `case` once."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    configs = model_configs(case.model)
    return {"training": _training, "sampling": _sampling}[case.task](case, configs)


def _unet(configs: Configs) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel.from_config(configs["unet"])


def _training(case: Case, configs: Configs) -> Callable[[], None]:
    """A LoRA on the keys and values of the layers that read text; text and latents are encoded beforehand."""
    import torch
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from peft import LoraConfig

    unet = _unet(configs).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=1, target_modules=["attn2.to_k", "attn2.to_v"]))
    if case.remat:
        unet.enable_gradient_checkpointing()
    unet.train()
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer, schedule = torch.optim.AdamW(trained, lr=1e-4), DDPMScheduler()
    side, b = latent_side(configs, case.size), case.batch
    latents = torch.randn(b, configs["vae"]["latent_channels"], side, side)
    states, added = torch.randn(b, *text_shape(configs)), _added_conditions(case, configs)

    def one() -> None:
        noise, times = torch.randn_like(latents), torch.randint(1000, (b,))
        noisy = schedule.add_noise(latents, noise, times)  # pyright: ignore[reportArgumentType]
        predicted = unet(noisy, times, states, added_cond_kwargs=added).sample
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return one


def _added_conditions(case: Case, configs: Configs) -> dict[str, Any] | None:
    import torch

    if "text_encoder_2" not in configs:
        return None
    pooled = torch.randn(case.batch, configs["text_encoder_2"]["projection_dim"])
    size = float(case.size)
    return {"text_embeds": pooled, "time_ids": torch.tensor([[size, size, 0, 0, size, size]] * case.batch)}


def _sampling(case: Case, configs: Configs) -> Callable[[], None]:
    """DDIM with guidance, and the decoder. The prompts are encoded beforehand, which is in favour of this side."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    pipe: Any = StableDiffusionPipeline(
        vae=AutoencoderKL.from_config(configs["vae"]),  # pyright: ignore[reportArgumentType]
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        unet=_unet(configs),
        scheduler=DDIMScheduler.from_config(SCHEDULER),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    states = torch.randn(case.batch, *text_shape(configs))
    options: dict[str, Any] = {
        "prompt_embeds": states, "negative_prompt_embeds": torch.zeros_like(states), "height": case.size,
        "width": case.size, "num_inference_steps": case.steps, "guidance_scale": GUIDANCE, "output_type": "np",
    }  # fmt: skip

    def one() -> None:
        with torch.no_grad():
            pipe(**options)

    return one
