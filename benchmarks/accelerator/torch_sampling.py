"""Pictures by diffusers' pipelines: DDIM with guidance, from random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.accelerator.rows import Rows, one_line
from benchmarks.accelerator.sizes import LENGTH, PIXELS, SAMPLING_STEPS
from benchmarks.accelerator.timing import median_seconds
from benchmarks.accelerator.torch_model import (
    device,
    device_name,
    forget_peak,
    make,
    peak_mib,
    scheduler,
    wait,
)


def prepare(model: str, batches: list[int], size: str, compiled: bool = False) -> Callable[[], Rows]:
    """Make the pipeline, and make pictures once, which compiles its U-Net."""
    torch.set_grad_enabled(False)
    pipe, steps, pixels = _pipeline(model, size), SAMPLING_STEPS[size], PIXELS[size][model]
    if compiled:
        pipe.unet = torch.compile(pipe.unet, dynamic=False)
    errors: dict[int, str] = {}
    for batch in batches:
        try:
            _pictures(pipe, batch, 1 if not compiled else 2, pixels)
        except Exception as error:
            errors[batch] = one_line(error)
    wait()

    def measure() -> Rows:
        for batch in batches:
            row = {
                "measured": "sampling", "model": model, "pixels": pixels, "batch": batch, "steps": steps,
                "compiled": compiled, "device": device_name(),
            }  # fmt: skip
            try:
                if batch in errors:
                    raise RuntimeError(errors[batch])
                forget_peak()
                seconds = median_seconds(lambda b=batch: _pictures(pipe, b, steps, pixels), wait)
                yield row | {
                    "seconds": seconds, "pictures_per_second": batch / seconds, "mib": {"peak": peak_mib()},
                }  # fmt: skip
            except Exception as error:
                yield row | {"error": one_line(error)}

    return measure


def _pipeline(model: str, size: str) -> Any:
    parts = {part: make(model, part, size) for part in ("unet", "vae", "text_encoder")}
    if model == "sdxl":
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

        make_pipe: Any = StableDiffusionXLPipeline
        pipe = make_pipe(
            **parts, text_encoder_2=make(model, "text_encoder_2", size), tokenizer=None, tokenizer_2=None,
            scheduler=scheduler(), add_watermarker=False,
        )  # fmt: skip
    else:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

        make_pipe = StableDiffusionPipeline
        pipe = make_pipe(
            **parts, tokenizer=None, scheduler=scheduler(), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pictures(pipe: Any, batch: int, steps: int, pixels: int) -> Any:
    """Text encoders, sampling, decoder. Prompts come as random ids, so no tokenizer is needed."""
    embeds = _encoded(pipe, batch)
    options = {"num_inference_steps": steps, "guidance_scale": 5.0, "height": pixels, "width": pixels}
    return pipe(**embeds, **options, output_type="pt").images


def _encoded(pipe: Any, batch: int) -> dict[str, Any]:
    """Text states of prompts and of negative prompts, as the pipelines take them."""
    ids = torch.randint(0, pipe.text_encoder.config.vocab_size, (2 * batch, LENGTH), device=device())
    first = pipe.text_encoder(ids, output_hidden_states=True)
    if not hasattr(pipe, "text_encoder_2"):
        prompts, negative = first.last_hidden_state.chunk(2)
        return {"prompt_embeds": prompts, "negative_prompt_embeds": negative}
    second = pipe.text_encoder_2(ids % pipe.text_encoder_2.config.vocab_size, output_hidden_states=True)
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    named = {"prompt_embeds": states, "pooled_prompt_embeds": second.text_embeds}
    halves = {name: value.chunk(2) for name, value in named.items()}
    return {name: half[0] for name, half in halves.items()} | {f"negative_{n}": half[1] for n, half in halves.items()}
