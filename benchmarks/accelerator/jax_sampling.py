"""Pictures by DDIM with guidance, from random weights: text encoder, sampling and decoder in one program."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator.jax_model import configs_of, memory_of, modules_of, random_params
from benchmarks.accelerator.rows import Rows, one_line
from benchmarks.accelerator.sizes import LENGTH, PIXELS, SAMPLING_STEPS
from benchmarks.accelerator.timing import median_seconds
from blocklora_jax.diffusion.generate import compile_generate
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.text import make_size_ids
from blocklora_jax.layouts.token_tables import token_table


def prepare(model: str, batches: list[int], size: str) -> Callable[[], Rows]:
    """Compile for each number of pictures."""
    configs, pixels, steps = configs_of(model, size), PIXELS[size][model], SAMPLING_STEPS[size]
    models, params = modules_of(configs), random_params(configs)
    program: Any = compile_generate(models, Schedule.from_json({}, "benchmark"), "ddim", steps, True)
    towers = list(models.text_encoders)
    most = min(token_table(params, part).shape[0] for part in towers)
    side = pixels // models.vae.config.downscale

    def arguments(batch: int) -> tuple[Any, ...]:
        rng = np.random.default_rng(batch)
        shape = (batch, *((2,) if len(towers) == 2 else ()), LENGTH)
        ids = [rng.integers(0, most, shape).astype(np.int32) for _ in range(2)]
        latents = rng.standard_normal((batch, side, side, models.vae.config.latent_channels), np.float32)
        sizes = make_size_ids(pixels, pixels, batch) if len(towers) == 2 else None
        return jax.device_put((params, *ids, latents, np.float32(5), sizes))

    with ThreadPoolExecutor(len(batches)) as pool:
        inputs = [arguments(batch) for batch in batches]
        compiled = [pool.submit(lambda x=x: program.lower(*x).compile()) for x in inputs]

    def measure() -> Rows:
        for batch, call, values in zip(batches, compiled, inputs, strict=True):
            row = {"measured": "sampling", "model": model, "pixels": pixels, "batch": batch, "steps": steps}
            try:
                yield row | _measured(call.result(), values, batch)
            except Exception as error:
                yield row | {"error": one_line(error)}

    return measure


def _measured(call: Any, values: tuple[Any, ...], batch: int) -> dict[str, Any]:
    pictures = call(*values)

    def again() -> None:
        nonlocal pictures
        pictures = call(*values)

    seconds = median_seconds(again, lambda: jax.block_until_ready(pictures))
    return {
        "seconds": seconds, "pictures_per_second": batch / seconds, "mib": memory_of(call),
        "device": jax.devices()[0].device_kind,
    }  # fmt: skip
