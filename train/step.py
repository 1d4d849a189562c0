"""One training step of one concept on one device: diffusion loss on its pictures, erasure on everything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from blocklora_jax.adapters.apply import apply_adapted
from blocklora_jax.adapters.lora import LoRATree, apply_masks
from blocklora_jax.diffusion.generate import Models, with_token_rows
from blocklora_jax.diffusion.schedule import Schedule
from blocklora_jax.erasure import epsilon_erasure, layer_erasure
from blocklora_jax.models.apply import apply_model
from train.config import ConceptConfig
from train.state import Trainable, TrainState

# Batches come from the host; inside jit their leaves are JAX arrays.
Rows = Array | np.ndarray


class Batch(NamedTuple):
    """The rows of one step: b of the concept, r random ones. `row` numbers seed each row's noise.

    Text comes as ids (encoded in the step) or, where nothing of it trains, as states: the other two are None.
    """

    latents: Float[Rows, "b h w c"]
    weights: Float[Rows, "b h w 1"]
    row: Int[Rows, " b"]
    random_latents: Float[Rows, "r h w c"]
    random_is_noise: Bool[Rows, " r"]
    random_row: Int[Rows, " r"]
    ids: Int[Rows, "b t"] | None = None
    random_ids: Int[Rows, "r t"] | None = None
    random_nouns: Int[Rows, " r"] | None = None
    states: Float[Rows, "b t d"] | None = None
    random_states: Float[Rows, "r t d"] | None = None


class Noised(NamedTuple):
    """Network inputs of some rows, and the noise that was put in."""

    latents: Float[Array, "b h w c"]
    noise: Float[Array, "b h w c"]
    timesteps: Int[Array, " b"]


def make_step(
    models: Models,
    schedule: Schedule,
    config: ConceptConfig,
    masks: LoRATree,
    optimizer: optax.GradientTransformation,
) -> Callable[[TrainState, Batch, Mapping[str, Any]], tuple[TrainState, dict]]:
    """`step(state, batch, params) -> (state, metrics)`, to be mapped over the axis "data" (see `parallel.map_step`).

    metrics: fp32 scalars loss, diffusion_loss, erase_loss, gradient_norm; means over all devices.
    """
    scale = (config.rank if config.alpha is None else config.alpha) / config.rank

    def loss_fn(trainable: Trainable, batch: Batch, params: Mapping[str, Any], key: PRNGKeyArray):
        lora, rows = apply_masks(trainable.lora, masks), len(batch.random_row)
        concept = _add_noise(schedule, batch.latents, batch.row, key, config.noise_offset)
        random = _random_inputs(schedule, batch, key)
        noisy, timesteps = (
            jnp.concatenate(pair) for pair in ((concept.latents, random[0]), (concept.timesteps, random[1]))
        )
        text = _encode_text(models, params, lora, scale, trainable.tokens, batch, config.token_spread, key)
        output, energies = apply_adapted(
            models.unet, params["unet"], lora.get("unet", {}), scale, noisy, timesteps, text.states, random_rows=rows
        )
        output, count = output.astype(jnp.float32), len(batch.row)
        diffusion = _diffusion_loss(schedule, config, output[:count], batch, concept)
        erase = jnp.zeros(())
        if rows and config.erase == "layer":
            erase = layer_erasure(jnp.concatenate([energies, text.energies]))
        elif rows:
            base = apply_model(models.unet, params["unet"], *random, text.base_states)
            erase = epsilon_erasure(output[count:], base)
        return diffusion + config.erase_weight * erase, {"diffusion_loss": diffusion, "erase_loss": erase}

    def step(state: TrainState, batch: Batch, params: Mapping[str, Any]) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.trainable, batch, params, key)
        grads, loss, parts = jax.lax.pmean((grads, loss, parts), "data")
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = cast(Trainable, optax.apply_updates(state.trainable, updates))
        metrics = {"loss": loss, **parts, "gradient_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, state.key, trainable, opt_state), metrics

    return step


def _add_noise(schedule: Schedule, latents: Rows, row: Rows, key: PRNGKeyArray, offset: float = 0.0) -> Noised:
    """Each row noised from its own key, so that the result does not depend on how rows are spread over devices."""

    def draw(row: Array) -> tuple[Array, Array]:
        t_key, noise_key, offset_key = jax.random.split(jax.random.fold_in(key, row), 3)
        noise = jax.random.normal(noise_key, latents.shape[1:])
        shift = offset * jax.random.normal(offset_key, (1, 1, latents.shape[-1]))
        return jax.random.randint(t_key, (), 0, schedule.num_train_timesteps), noise + shift

    timesteps, noise = jax.vmap(draw)(jnp.asarray(row))
    return Noised(schedule.add_noise(jnp.asarray(latents), noise, timesteps), noise, timesteps)


def _random_inputs(schedule: Schedule, batch: Batch, key: PRNGKeyArray) -> tuple[Array, Array]:
    noised = _add_noise(schedule, batch.random_latents, batch.random_row, jax.random.fold_in(key, 1))
    pure = batch.random_is_noise[:, None, None, None]
    return jnp.where(pure, noised.noise, noised.latents), noised.timesteps


class _Text(NamedTuple):
    states: Float[Array, "b t d"]
    base_states: Float[Array, "r t d"] | None
    energies: Float[Array, "layers r"]


def _encode_text(
    models: Models,
    params: Mapping[str, Any],
    lora: LoRATree,
    scale: float,
    tokens: Array,
    batch: Batch,
    spread: float,
    key: PRNGKeyArray,
) -> _Text:
    """Text states of the concept's rows, then the random rows, under the adapter; and the latter's under the base."""
    rows = len(batch.random_row)
    if batch.states is not None and batch.random_states is not None:
        states = jnp.concatenate([batch.states, batch.random_states])
        return _Text(states, jnp.asarray(batch.random_states), jnp.zeros((0, rows)))
    assert batch.ids is not None and batch.random_ids is not None and batch.random_nouns is not None
    table = params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    foreign = foreign_embeddings(table, batch.random_nouns, batch.random_row, len(tokens), spread, key)
    text_params = with_table(params, jnp.concatenate([table, tokens, foreign.reshape(-1, table.shape[1])]))
    random_ids = own_foreign_ids(batch.random_ids, len(table) + len(tokens), len(tokens))
    text_encoder = with_token_rows(models, text_params).text_encoder
    states, energies = apply_adapted(
        text_encoder,
        text_params["text_encoder"],
        lora.get("text_encoder", {}),
        scale,
        jnp.concatenate([batch.ids, random_ids]),
        random_rows=rows,
    )
    # Without random rows (erase none) there is nothing to run the base on.
    adapted = rows and "text_encoder" in lora
    base = apply_model(text_encoder, text_params["text_encoder"], random_ids) if adapted else states[len(batch.ids) :]
    return _Text(states, base, energies)


def foreign_embeddings(
    table: Float[Array, "n d"],
    nouns: Int[Rows, " r"],
    row: Rows,
    vectors: int,
    spread: float,
    key: PRNGKeyArray,
) -> Float[Array, "r v d"]:
    """Embeddings of tokens that other people's concepts could have: around the noun's, as far as new tokens start."""
    deviation = spread * table.std()

    def draw(noun: Array, row: Array) -> Array:
        row_key = jax.random.fold_in(jax.random.fold_in(key, 2), row)
        return table[noun][None] + deviation * jax.random.normal(row_key, (vectors, table.shape[1]))

    return jax.vmap(draw)(jnp.asarray(nouns), jnp.asarray(row))


def own_foreign_ids(ids: Int[Rows, "r t"], first: int, vectors: int) -> Int[Array, "r t"]:
    """`ids` where every row's foreign token is its own: from `first` on they name the first row's, `vectors` a row."""
    shift = jnp.arange(len(ids))[:, None] * vectors
    return jnp.where(ids >= first, ids + shift, ids)


def with_table(params: Mapping[str, Any], table: Array) -> dict[str, Any]:
    """`params` with another token table."""
    text = params["text_encoder"]["text_model"]
    embeddings = {**text["embeddings"], "token_embedding": {"embedding": table}}
    return {**params, "text_encoder": {**params["text_encoder"], "text_model": {**text, "embeddings": embeddings}}}


def _diffusion_loss(schedule: Schedule, config: ConceptConfig, output: Array, batch: Batch, noised: Noised) -> Array:
    target = schedule.training_target(jnp.asarray(batch.latents), noised.noise, noised.timesteps)
    squared = jnp.square(output - target).mean(-1, keepdims=True)
    error = (squared * batch.weights).sum((1, 2, 3)) / batch.weights.sum((1, 2, 3))
    if config.weighting == "min_snr":
        error = error * schedule.min_snr_weight(noised.timesteps, config.snr_gamma)
    elif config.weighting == "picture":
        error = error * schedule.picture_weight(noised.timesteps, config.snr_gamma)
    return error.mean()
