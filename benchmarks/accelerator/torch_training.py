"""A training step of a LoRA with PyTorch, diffusers and PEFT, as diffusers' training scripts make it.

bfloat16 with fp32 adapters, scaled-dot-product attention, channels last, fused AdamW. Captions are encoded beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.accelerator.card import utilization
from benchmarks.accelerator.rows import Rows, one_line
from benchmarks.accelerator.sizes import LENGTH, PIXELS
from benchmarks.accelerator.timing import median_seconds
from benchmarks.accelerator.torch_model import (
    add_lora,
    device,
    device_name,
    dtype,
    forget_peak,
    make,
    peak_mib,
    scheduler,
    wait,
)

RANK, CALLS = 16, 5


def prepare(model: str, batches: list[int], size: str, compiled: bool = False) -> Callable[[], Rows]:
    """Make the U-Net, and make one step for each number of rows, which compiles it."""
    unet, pixels = make(model, "unet", size), PIXELS[size][model]
    add_lora(unet, "default", RANK, ["attn2.to_k", "attn2.to_v"])
    unet.train()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device().type == "cuda")
    call = torch.compile(unet, dynamic=False) if compiled else unet
    noise = scheduler()
    inputs = {batch: _inputs(unet, batch, pixels // 8) for batch in batches}
    errors: dict[int, str] = {}

    def step(batch: int) -> None:
        latents, states, added = inputs[batch]
        drawn = torch.randn_like(latents)
        t = torch.randint(0, 1000, (batch,), device=latents.device)
        noised = noise.add_noise(latents, drawn, t)
        with torch.autocast(device().type, dtype(), enabled=dtype() == torch.bfloat16):
            predicted = call(noised, t, states, added_cond_kwargs=added).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), drawn.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for batch in batches:
        try:
            step(batch)
            wait()
        except Exception as error:  # The others may still fit into the memory.
            errors[batch] = one_line(error)
    flops = {} if compiled else {batch: _flops(lambda b=batch: step(b)) for batch in batches if batch not in errors}

    def measure() -> Rows:
        for batch in batches:
            row = {
                "measured": "training", "model": model, "pixels": pixels, "batch": batch, "concepts": 1,
                "variant": "plain", "compiled": compiled, "device": device_name(),
            }  # fmt: skip
            try:
                if batch in errors:
                    raise RuntimeError(errors[batch])
                forget_peak()
                seconds = median_seconds(lambda b=batch: step(b), wait, CALLS)
                yield row | {
                    "seconds": seconds, "steps_per_second": 1 / seconds, "pictures_per_second": batch / seconds,
                    "flops": flops.get(batch), "mfu": utilization(device_name(), flops.get(batch), seconds),
                    "mib": {"peak": peak_mib()},
                }  # fmt: skip
            except Exception as error:
                yield row | {"error": one_line(error)}

    return measure


def _inputs(unet: Any, batch: int, side: int) -> tuple[Any, Any, dict[str, Any] | None]:
    config = unet.config
    draw = lambda *shape: torch.randn(*shape, device=device(), dtype=dtype())
    latents = draw(batch, config.in_channels, side, side).to(memory_format=torch.channels_last)
    states = draw(batch, LENGTH, config.cross_attention_dim)
    if config.addition_embed_type != "text_time":
        return latents, states, None
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return latents, states, {"text_embeds": draw(batch, pooled), "time_ids": draw(batch, 6)}


def _flops(step: Callable[[], None]) -> float | None:
    """What PyTorch counts for a step: matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with FlopCounterMode(display=False) as counter:
            step()
        return float(counter.get_total_flops())
    except Exception as error:
        print(f"PyTorch does not count operations: {error}", flush=True)
        return None
