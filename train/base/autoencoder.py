"""Stage 2: the KL autoencoder. The loss is the absolute plus the squared error, and a small KL term for the latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.config import VAEConfig
from blocklora_jax.models.vae import AutoencoderKL
from train.base.initial import silence_branches
from train.base.pictures import Pictures, batch_indices, to_float
from train.engine.loop import LoopConfig, run_loop

# Per element. For comparison: the absolute error of these simple pictures is about 0.02, the KL about 3 nats.
KL_WEIGHT = 3e-4


def train_autoencoder(
    config: VAEConfig, pictures: Pictures, run_dir: Path, loop: LoopConfig, batch: int, learning_rate: float, seed: int
) -> dict:
    """Trained parameters of the autoencoder."""
    model = AutoencoderKL(config)
    key = jax.random.key(seed)
    params = silence_branches(model.init(key, jnp.zeros((1, *pictures.images.shape[1:])))["params"])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(warmup_then_cosine(learning_rate, loop.steps)))

    loss_fn = partial(autoencoder_loss, model)

    @jax.jit
    def step_fn(state, images):
        step, params, opt_state = state
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, images, jax.random.fold_in(key, step)
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (step + 1, optax.apply_updates(params, updates), opt_state), {"loss": loss, **metrics}

    def batch_at(step: int) -> np.ndarray:
        return to_float(pictures.images[batch_indices(seed + 1, step, batch, len(pictures.images))])

    state = (jnp.zeros((), jnp.int32), params, optimizer.init(params))
    params = run_loop(loop, run_dir, state, step_fn, batch_at, label="autoencoder")[1]
    images = to_float(pictures.images[:16])
    mean, _ = _encode(model, params, images)
    show_reconstructions(images, apply_model(model, params, mean, method="decode"), run_dir / "reconstructions.png")
    return params


def autoencoder_loss(
    model: AutoencoderKL, params: Any, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss, and the metrics absolute_error and kl. images: fp32 in -1..1. key: of the noise of the latents."""
    # The models may compute in bfloat16; losses are fp32.
    mean, logvar = (x.astype(jnp.float32) for x in _encode(model, params, images))
    latents = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
    decoded = apply_model(model, params, latents, method="decode").astype(jnp.float32)
    error = decoded - images
    reconstruction = jnp.abs(error).mean() + jnp.square(error).mean()
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar).mean()
    return reconstruction + KL_WEIGHT * kl, {"absolute_error": jnp.abs(error).mean(), "kl": kl}


def _encode(model: AutoencoderKL, params: dict, images: np.ndarray | jax.Array) -> tuple[jax.Array, jax.Array]:
    return cast(tuple[jax.Array, jax.Array], model.apply({"params": params}, jnp.asarray(images), method="encode"))


def warmup_then_cosine(peak: float, steps: int) -> optax.Schedule:
    """Linear warm-up over the first 5 %, then a cosine to one hundredth of `peak`."""
    warmup = min(max(1, steps // 20), steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 100)


def show_reconstructions(images: np.ndarray, decoded: np.ndarray | jax.Array, path: Path) -> None:
    """Write a grid of pictures in -1..1, each beside what the autoencoder makes of it."""
    decoded = np.clip(np.asarray(decoded), -1, 1)
    both = np.stack([images, decoded], axis=1).reshape(-1, *images.shape[1:])
    grid: Image.Image = picture_grid(((both + 1) * 127.5).round().astype(np.uint8), columns=8, scale=2)
    write_atomic(path, png_bytes(grid))
