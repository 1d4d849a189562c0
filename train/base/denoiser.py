"""Stage 3: the U-Net. Latents are encoded once. Captions are dropped at random. The result is a moving average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int
from tqdm import tqdm

from blocklora_jax.checks.finite import narrow
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.models.vae import AutoencoderKL
from train.base.initial import silence_branches
from train.base.layout import apply_with_features, layout_loss, silent_heads
from train.base.pictures import Pictures, batch_indices, to_float
from train.engine.loop import LoopConfig, run_loop

CAPTION_DROPOUT = 0.1
SNR_CLIP = 5.0
EMA_DECAY = 0.998
# Weight of the second task (see layout.py). At first its loss is about as large as the main loss, later nearly zero.
LAYOUT_WEIGHT = 0.1


class Examples(NamedTuple):
    """The training data of the U-Net.

    latents: scaled, of any float type. ids: token ids of the captions, int32. empty_ids: those of the empty caption.
    subjects: int8, see `train.base.layout.subjects_of`.
    """

    latents: Float[np.ndarray, "n h w c"]
    ids: Int[np.ndarray, "n t"]
    empty_ids: Int[np.ndarray, " t"]
    subjects: Int[np.ndarray, "n 3"]


class DenoiserState(NamedTuple):
    """The state of the U-Net's training.

    step: int32. params: of the "unet", and of the "heads" for its second task. average: the moving average of params.
    opt_state: the state of the optimizer.
    """

    step: jax.Array
    params: Any
    average: Any
    opt_state: optax.OptState


def encode_pictures(config: VAEConfig, params: dict, pictures: Pictures, batch: int = 64) -> np.ndarray:
    """Latents fp16 [n, h, w, c] of all pictures: the means that the encoder gives, not scaled."""
    model = AutoencoderKL(config)
    encode = jax.jit(lambda x: model.apply({"params": params}, x, method="encode")[0])
    count = len(pictures.images)
    batch = min(batch, count)
    starts = tqdm(range(0, count, batch), desc="encode", unit="batch", dynamic_ncols=True)
    half = np.dtype(np.float16)
    chunks = [narrow("latents", encode(_padded(pictures.images[i : i + batch], batch)), half) for i in starts]
    return np.concatenate(chunks)[:count]


def train_denoiser(
    config: UNetConfig,
    text: tuple[TextConfig, dict],
    schedule: Schedule,
    data: Examples,
    run_dir: Path,
    loop: LoopConfig,
    batch: int,
    learning_rate: float,
    seed: int,
    preview: Callable[[int, Any], Any],
    start: Mapping[str, Any] | None = None,
) -> dict:
    """The moving average of the U-Net's parameters.

    start: parameters to continue from. preview(step, params): called with the average every `loop.preview_every`
    steps.
    """
    latents, ids, empty_ids, subjects = data
    model, text_model = UNet2DConditionModel(config), CLIPTextModel(text[0])
    key = jax.random.key(seed)
    params = init_denoiser(model, latents.shape[1:], (ids.shape[1], text[0].hidden_size), seed, start)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(_hold_then_decay(learning_rate, loop.steps)))

    loss_fn = partial(denoiser_loss, model, text_model, schedule)

    @jax.jit
    def step_fn(state, batch):
        step_key = jax.random.fold_in(key, state.step)
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, text[1], empty_ids, batch, step_key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # A small decay at first, so that the average forgets the random start.
        decay = jnp.minimum(EMA_DECAY, (1.0 + state.step) / (10.0 + state.step))
        average = optax.incremental_update(params, state.average, 1.0 - decay)
        metrics["gradient_norm"] = optax.global_norm(grads)
        return DenoiserState(state.step + 1, params, average, opt_state), metrics

    def batch_at(step: int):
        chosen = batch_indices(seed + 2, step, batch, len(latents))
        return latents[chosen].astype(np.float32), ids[chosen], subjects[chosen]

    state = DenoiserState(jnp.zeros((), jnp.int32), params, params, optimizer.init(params))
    show = lambda step, state: preview(step, state.average["unet"])
    return run_loop(loop, run_dir, state, step_fn, batch_at, show, label="denoiser").average["unet"]


def init_denoiser(
    model: UNet2DConditionModel, latents: tuple[int, ...], states: tuple[int, int], seed: int,
    start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The parameters before training: of the "unet", and of the "heads" for the second task.

    latents, states: shapes for one picture. start: parameters of the U-Net to continue from.
    """
    inputs = jnp.zeros((1, *latents)), jnp.zeros((1,), jnp.int32), jnp.zeros((1, *states))
    unet_params = start or silence_branches(model.init(jax.random.key(seed), *inputs)["params"])
    _, features = jax.eval_shape(partial(apply_with_features, model), unet_params, *inputs)
    return jax.tree.map(jnp.asarray, {"unet": dict(unet_params), "heads": silent_heads(features)})


def denoiser_loss(
    model: UNet2DConditionModel, text_model: CLIPTextModel, schedule: Schedule, params: Any, text_params: Any,
    empty_ids: Any, batch: Any, key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
    """The loss of both tasks, and the metrics loss, layout and error.

    params: see `init_denoiser`. text_params: of the frozen text encoder. batch: latents, ids, subjects.
    """
    x0, ids, subjects = batch
    t_key, noise_key, drop_key = jax.random.split(key, 3)
    t = jax.random.randint(t_key, (x0.shape[0],), 0, schedule.num_train_timesteps)
    noise = jax.random.normal(noise_key, x0.shape)
    drop = jax.random.bernoulli(drop_key, CAPTION_DROPOUT, (x0.shape[0], 1))
    states = apply_model(text_model, text_params, jnp.where(drop, empty_ids[None], ids))
    predicted, features = apply_with_features(model, params["unet"], schedule.add_noise(x0, noise, t), t, states)
    # The models may compute in bfloat16; losses are fp32.
    predicted, features = jax.tree.map(lambda x: x.astype(jnp.float32), (predicted, features))
    error = ((predicted - schedule.training_target(x0, noise, t)) ** 2).mean((1, 2, 3))
    loss = (error * schedule.picture_weight(t, SNR_CLIP)).mean()
    layout = layout_loss(params["heads"], features, subjects, ~drop[:, 0])
    return loss + LAYOUT_WEIGHT * layout, {"loss": loss, "layout": layout, "error": error.mean()}


def _hold_then_decay(peak: float, steps: int) -> optax.Schedule:
    """Warm-up, constant until 75 % of the steps, then linear decay to 5 % of `peak`."""
    hold = steps * 3 // 4
    warm = min(200, max(1, hold))
    pieces = [
        optax.linear_schedule(0.0, peak, warm),
        optax.constant_schedule(peak),
        optax.linear_schedule(peak, peak / 20, max(1, steps - hold)),
    ]
    return optax.join_schedules(pieces, [warm, hold])


def _padded(images: np.ndarray, size: int) -> np.ndarray:
    return np.pad(to_float(images), ((0, size - len(images)), (0, 0), (0, 0), (0, 0)))
