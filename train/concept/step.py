"""One training step of one concept on one device: diffusion loss on its pictures, erasure on random prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from blocklora_jax.adapters.apply import apply_adapted, measure_energies
from blocklora_jax.adapters.erasure import epsilon_erasure, layer_erasure
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.text import add_sizes, make_size_ids
from blocklora_jax.layouts.low_rank import LoRATree
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import TextOutput
from train.concept.batch import Batch, Rows
from train.concept.settings.adapter import AdapterSettings
from train.concept.settings.erasure import ErasureSettings
from train.concept.settings.loss import LossSettings
from train.concept.settings.token_side import TokenSideSettings
from train.concept.state import Trainable, TrainState, masked_lora
from train.concept.text import encode_rows
from train.concept.token_term import token_term, with_own_prompts, without_own_prompts

_OFF = TokenSideSettings()


class Noised(NamedTuple):
    """Network inputs of some rows, and the noise in them."""

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, " b"]


def make_step(
    models: Models,
    schedule: Schedule,
    optimizer: optax.GradientTransformation,
    *,
    adapter: AdapterSettings,
    erasure: ErasureSettings,
    loss: LossSettings,
    token_side: TokenSideSettings = _OFF,
) -> Callable[[TrainState, Batch, Mapping[str, Any]], tuple[TrainState, dict]]:
    """`step(state, batch, params) -> (state, metrics)`, to be mapped over the axis "data" (see `parallel.map_step`).

    metrics: fp32 scalars loss, diffusion_loss, erase_loss, gradient_norm; means over all devices. If the batch has own
    prompts, the loss includes the token side (see `token_term`); `params` must then hold
    `own_directions.TokenSideArrays` too.
    """
    scale = adapter.scaling

    def loss_fn(trainable: Trainable, masks: LoRATree, batch: Batch, params: Mapping[str, Any], key: PRNGKeyArray):
        lora, rows = masked_lora(trainable.lora, masks, adapter.down_is_frozen), len(batch.random_row)
        concept = _add_noise(schedule, batch.latents, batch.row, key, loss.noise_offset)
        random = _random_inputs(schedule, batch, key, erasure.preserves_class, loss.noise_offset)
        extended = with_own_prompts(batch)
        text, token, token_parts = encode_rows(models, params, lora, scale, trainable, extended), None, {}
        if batch.own_prompts is not None:
            token, token_parts = token_term(token_side, text.concept.states, extended, trainable, params)
            text = without_own_prompts(text, len(batch.row))
        pairs = lora.get("unet", {})
        inputs: tuple[Any, ...] = concept.latents, concept.timesteps, text.concept
        # If all layers read only text, the U-Net need not run on the random rows.
        unet_rows = 0 if erasure.erase == "layer" and all(reads_text(f"unet/{path}") for path in pairs) else rows
        if unet_rows:
            inputs = jax.tree.map(lambda *x: jnp.concatenate(x), inputs, (*random, text.random))
        output, energies = apply_adapted(
            models.unet, params["unet"], pairs, scale, *_unet_inputs(models, *inputs), random_rows=unet_rows
        )
        output, count = output.astype(jnp.float32), len(batch.row)
        diffusion = _diffusion_loss(schedule, loss, output[:count], batch, concept)
        erase = jnp.zeros(())
        if rows and erasure.erase == "layer":
            if not unet_rows:
                energies = measure_energies(params["unet"], pairs, scale, text.random.states)
            erase = layer_erasure(jnp.concatenate([energies, text.energies]))
        elif rows:
            base = apply_model(models.unet, params["unet"], *_unet_inputs(models, *random, text.base))
            erase = epsilon_erasure(output[count:], base)
        total, parts = diffusion + erasure.erase_weight * erase, {"diffusion_loss": diffusion, "erase_loss": erase}
        return total if token is None else total + token, parts | token_parts

    def step(state: TrainState, batch: Batch, params: Mapping[str, Any]) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        inputs = state.trainable, state.masks, batch, params, key
        (total, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(*inputs)
        grads, total, parts = jax.lax.pmean((grads, total, parts), "data")
        # cast, because the types of optax do not accept NamedTuples.
        before = cast(Any, state.trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, before)
        trainable = cast(Trainable, optax.apply_updates(before, updates))
        metrics = {"loss": total, **parts, "gradient_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, state.key, state.masks, trainable, opt_state), metrics

    return step


def _add_noise(schedule: Schedule, latents: Rows, row: Rows, key: PRNGKeyArray, offset: float = 0.0) -> Noised:
    """Add noise to each row from its own key, so that it does not depend on how rows are spread over devices."""

    def draw(row: Array) -> tuple[Array, Array]:
        t_key, noise_key, offset_key = jax.random.split(jax.random.fold_in(key, row), 3)
        noise = jax.random.normal(noise_key, latents.shape[1:])
        shift = offset * jax.random.normal(offset_key, (1, 1, latents.shape[-1]))
        return jax.random.randint(t_key, (), 0, schedule.num_train_timesteps), noise + shift

    timesteps, noise = jax.vmap(draw)(jnp.asarray(row))
    return Noised(schedule.add_noise(jnp.asarray(latents), noise, timesteps), noise, timesteps)


def _random_inputs(
    schedule: Schedule, batch: Batch, key: PRNGKeyArray, preserves_class: bool, noise_offset: float
) -> tuple[Array, Array]:
    if preserves_class:
        # The random rows are the concept's rows again. They get the same noise, because `random_row` has their numbers.
        noised = _add_noise(schedule, batch.random_latents, batch.random_row, key, noise_offset)
        return noised.latents, noised.timesteps
    noised = _add_noise(schedule, batch.random_latents, batch.random_row, jax.random.fold_in(key, 1))
    pure = batch.random_is_noise[:, None, None, None]
    return jnp.where(pure, noised.noise, noised.latents), noised.timesteps


def _unet_inputs(models: Models, latents: Array, timesteps: Array, text: TextOutput) -> tuple[Any, ...]:
    """The inputs of the U-Net. SDXL also gets sizes that mean "neither enlarged nor cropped", as in `generate`."""
    height, width = (side * models.vae.config.downscale for side in latents.shape[1:3])
    added = add_sizes(text, jnp.asarray(make_size_ids(height, width, len(latents))))
    return (latents, timesteps, text.states, *([added] if added else []))


def _diffusion_loss(schedule: Schedule, loss: LossSettings, output: Array, batch: Batch, noised: Noised) -> Array:
    target = schedule.training_target(jnp.asarray(batch.latents), noised.noise, noised.timesteps)
    squared = jnp.square(output - target).mean(-1, keepdims=True)
    error = (squared * batch.weights).sum((1, 2, 3)) / batch.weights.sum((1, 2, 3))
    if loss.weighting == "min_snr":
        error = error * schedule.min_snr_weight(noised.timesteps, loss.snr_gamma)
    elif loss.weighting == "picture":
        error = error * schedule.picture_weight(noised.timesteps, loss.snr_gamma)
    return error.mean()
