"""One training step of one concept on one device: diffusion loss on its pictures, erasure on random prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from blocklora_jax.adapters.apply import apply_adapted, measure_energies
from blocklora_jax.adapters.erasure import epsilon_erasure, layer_erasure
from blocklora_jax.adapters.row_weights import RowWeights, weigh_rows
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.diffusion.models import Models
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.diffusion.text import add_sizes, make_size_ids
from blocklora_jax.layouts.low_rank import LoRAPair, LoRATree
from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import TextOutput
from blocklora_jax.models.precision import at_least_float32
from train.concept.accumulation import mean_over_parts
from train.concept.batch import Batch
from train.concept.noised_rows import Noised, Random, add_noise, random_inputs
from train.concept.settings.adapter import AdapterSettings
from train.concept.settings.erasure import ErasureSettings
from train.concept.settings.loss import LossSettings
from train.concept.settings.token_side import TokenSideSettings
from train.concept.state import Trainable, TrainState, masked_lora
from train.concept.text import EncodedRows, encode_rows
from train.concept.token_term import (
    TokenEnergies,
    token_energies,
    token_term,
    with_own_prompts,
    without_own_prompts,
)

_OFF = TokenSideSettings(token_side=0.0)
# Of the U-Net's adapted layers, by path.
Pairs = Mapping[str, LoRAPair]


class Parts(NamedTuple):
    """The arguments that are the same for all steps of a training."""

    models: Models
    schedule: Schedule
    adapter: AdapterSettings
    erasure: ErasureSettings
    loss: LossSettings
    token_side: TokenSideSettings


class Inputs(NamedTuple):
    """The inputs of the networks in a step."""

    concept: Noised
    random: Random
    text: EncodedRows

    @property
    def random_rows(self) -> int:
        """The number of random rows."""
        return len(self.random[1])


def make_step(
    models: Models,
    schedule: Schedule,
    optimizer: optax.GradientTransformation,
    *,
    adapter: AdapterSettings,
    erasure: ErasureSettings,
    loss: LossSettings,
    token_side: TokenSideSettings = _OFF,
    accumulate: int = 1,
) -> Callable[[TrainState, Batch, Mapping[str, Any]], tuple[TrainState, dict]]:
    """`step(state, batch, params) -> (state, metrics)`, to be mapped over the axis "data" (see `parallel.map_step`).

    metrics: fp32 scalars loss, diffusion_loss, erase_loss, gradient_norm; means over all devices. If the batch has own
    prompts, the loss includes the token side (see `token_term`); `params` must then hold
    `own_directions.TokenSideArrays` too. accumulate: in how many parts the rows of a batch are taken, one after the
    other; the result is that of the whole batch, up to rounding.
    """
    parts = Parts(models, schedule, adapter, erasure, loss, token_side)
    gradients = partial(_gradients, parts) if accumulate == 1 else partial(_accumulated, parts, accumulate)

    def step(state: TrainState, batch: Batch, params: Mapping[str, Any]) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        (total, losses), grads = gradients(state.trainable, state.masks, batch, params, key)
        grads, total, losses = jax.lax.pmean((grads, total, losses), "data")
        # cast, because the types of optax do not accept NamedTuples.
        before = cast(Any, state.trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, before)
        trainable = cast(Trainable, optax.apply_updates(before, updates))
        metrics = {"loss": total, **losses, "gradient_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, state.key, state.masks, trainable, opt_state), metrics

    return step


def _gradients(parts: Parts, *inputs: Any) -> tuple[tuple[Array, dict[str, Array]], Trainable]:
    """The value of `_loss`, and its gradient with respect to the trainable parameters. inputs: see `_loss`."""
    return jax.value_and_grad(partial(_loss, parts), has_aux=True)(*inputs)


def _accumulated(
    parts: Parts, count: int, trainable: Trainable, masks: LoRATree, batch: Batch, params: Mapping[str, Any],
    key: PRNGKeyArray,
) -> tuple[tuple[Array, dict[str, Array]], Trainable]:  # fmt: skip
    """`_gradients` of a batch that is taken in `count` parts.

    Every loss is a mean over rows, but the token side takes a logarithm of such a mean. So that mean is computed first.
    """
    means = None
    if batch.own_prompts is not None:
        means = mean_over_parts(partial(_token_energies, parts, trainable, masks, params), batch, count)
        means = jax.lax.pmean(means, "data")

    def of_part(part: Batch) -> tuple[tuple[Array, dict[str, Array]], Trainable]:
        return _gradients(parts, trainable, masks, part, params, key, means)

    return mean_over_parts(of_part, batch, count)


def _token_energies(
    parts: Parts, trainable: Trainable, masks: LoRATree, params: Mapping[str, Any], batch: Batch
) -> TokenEnergies:
    """What the token side reads of the rows of `batch`."""
    lora = masked_lora(trainable.lora, masks, parts.adapter.down_is_frozen)
    extended = with_own_prompts(batch)._replace(random_ids=None, random_tokens=None)
    text = encode_rows(parts.models, params, lora, parts.adapter.scaling, trainable, extended)
    return token_energies(parts.token_side, text.concept.states, extended, params)


def _loss(
    parts: Parts, trainable: Trainable, masks: LoRATree, batch: Batch, params: Mapping[str, Any], key: PRNGKeyArray,
    means: TokenEnergies | None = None,
) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """The loss, and its terms by the names of their metrics. means: see `token_term`."""
    lora = masked_lora(trainable.lora, masks, parts.adapter.down_is_frozen)
    schedule, offset = parts.schedule, parts.loss.noise_offset
    concept = add_noise(schedule, batch.latents, batch.row, key, offset)
    random = random_inputs(schedule, batch, key, parts.erasure.preserves_class, offset)
    text, token, token_losses = _encode(parts, params, lora, trainable, batch, means)
    inputs, pairs = Inputs(concept, random, text), lora.get("unet", {})
    output, energies = _run_unet(parts, params, pairs, inputs)
    diffusion = _diffusion_loss(schedule, parts.loss, output[: len(batch.row)], batch, concept)
    erase = _erase_loss(parts, params, pairs, inputs, output, energies, batch.random_row_weights)
    total = diffusion + parts.erasure.erase_weight * erase
    losses = {"diffusion_loss": diffusion, "erase_loss": erase} | token_losses
    return total if token is None else total + token, losses


def _encode(
    parts: Parts, params: Mapping[str, Any], lora: LoRATree, trainable: Trainable, batch: Batch,
    means: TokenEnergies | None,
) -> tuple[EncodedRows, Array | None, dict[str, Array]]:  # fmt: skip
    """The encoded text of the batch; the term of the token side (None if it is off), and its metrics."""
    extended = with_own_prompts(batch)
    text = encode_rows(parts.models, params, lora, parts.adapter.scaling, trainable, extended)
    if batch.own_prompts is None:
        return text, None, {}
    token, losses = token_term(parts.token_side, text.concept.states, extended, trainable, params, means)
    return without_own_prompts(text, len(batch.row)), token, losses


def _unet_rows(parts: Parts, pairs: Pairs, inputs: Inputs) -> int:
    """The number of random rows on which the U-Net must run: none if all its adapted layers read only text."""
    reads_only_text = all(reads_text(f"unet/{path}") for path in pairs)
    return 0 if parts.erasure.erase == "layer" and reads_only_text else inputs.random_rows


def _run_unet(parts: Parts, params: Mapping[str, Any], pairs: Pairs, inputs: Inputs) -> tuple[Array, Array]:
    """The U-Net's fp32 output for the concept's rows and those random rows on which it runs; its layers' energies."""
    concept, random, text = inputs
    tensors: tuple[Any, ...] = concept.latents, concept.timesteps, text.concept
    rows, scale = _unet_rows(parts, pairs, inputs), parts.adapter.scaling
    if rows:
        tensors = jax.tree.map(lambda *x: jnp.concatenate(x), tensors, (*random, text.random))
    tensors = _unet_inputs(parts.models, *tensors)
    output, energies = apply_adapted(parts.models.unet, params["unet"], pairs, scale, *tensors, random_rows=rows)
    return at_least_float32(output), energies


def _erase_loss(
    parts: Parts,
    params: Mapping[str, Any],
    pairs: Pairs,
    inputs: Inputs,
    output: Array,
    energies: Array,
    row_weights: RowWeights,
) -> Array:
    """The erasure loss on the random rows; 0 without random rows. output, energies: see `_run_unet`."""
    concept, random, text = inputs
    if not inputs.random_rows:
        return jnp.zeros(())
    if parts.erasure.erase == "layer":
        if not _unet_rows(parts, pairs, inputs):
            energies = measure_energies(params["unet"], pairs, parts.adapter.scaling, text.random.states)
        return layer_erasure(jnp.concatenate([energies, text.energies]), row_weights)
    base = apply_model(parts.models.unet, params["unet"], *_unet_inputs(parts.models, *random, text.base))
    return epsilon_erasure(output[len(concept.latents) :], base, row_weights)


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
    return weigh_rows(error, batch.row_weights).mean()
