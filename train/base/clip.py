"""Stage 1: CLIP. Its text encoder conditions the U-Net. Its image encoder is used for measuring."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blocklora_jax.models.apply import apply_model
from blocklora_jax.models.clip_text import CLIPTextModel
from blocklora_jax.models.clip_vision import CLIPVisionModel, VisionConfig
from blocklora_jax.models.config import TextConfig
from train.base.autoencoder import warmup_then_cosine
from train.base.pictures import Pictures, batch_indices, to_float
from train.engine.loop import LoopConfig, run_loop


def train_clip(
    text: TextConfig,
    vision: VisionConfig,
    pictures: Pictures,
    ids: np.ndarray,
    run_dir: Path,
    loop: LoopConfig,
    batch: int,
    learning_rate: float,
    seed: int,
) -> dict:
    """Trained {"text_encoder", "vision", "text_projection" [d, p], "logit_scale"}.

    ids: captions int32 [n, t]. Pictures with the same caption in a batch are not each other's negatives.
    """
    models = CLIPTextModel(text), CLIPVisionModel(vision)
    params = init_clip(*models, ids.shape[1], pictures.images.shape[1:], seed)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(warmup_then_cosine(learning_rate, loop.steps)))

    loss_fn = partial(clip_loss, *models)

    @jax.jit
    def step_fn(state, batch):
        params, opt_state = state
        (loss, hit), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), {"loss": loss, "caption_top1": hit}

    def batch_at(step: int):
        chosen = batch_indices(seed, step, batch, len(ids))
        return to_float(pictures.images[chosen]), ids[chosen]

    return run_loop(loop, run_dir, (params, optimizer.init(params)), step_fn, batch_at, label="clip")[0]


def init_clip(
    text_model: CLIPTextModel, vision_model: CLIPVisionModel, tokens: int, picture: tuple[int, ...], seed: int
) -> dict[str, Any]:
    """The parameters before training. tokens: positions of a caption. picture: shape of a picture."""
    width, projected = text_model.config.hidden_size, vision_model.config.projection_dim
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "text_encoder": text_model.init(keys[0], jnp.zeros((1, tokens), jnp.int32))["params"],
        "vision": vision_model.init(keys[1], jnp.zeros((1, *picture)))["params"],
        "text_projection": jax.random.normal(keys[2], (width, projected)) * width**-0.5,
        "logit_scale": jnp.asarray(np.log(1 / 0.07), jnp.float32),
    }


def clip_loss(
    text_model: CLIPTextModel, vision_model: CLIPVisionModel, params: Any, images: jax.Array, ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The contrastive loss, and the share of pictures whose best caption is their own. images: fp32 in -1..1."""
    embedded_images = _unit(apply_model(vision_model, params["vision"], images))
    states = apply_model(text_model, params["text_encoder"], ids)
    last = text_model.config.vocab_size - 1
    embedded_texts = _unit(pool_text(states, ids, last) @ params["text_projection"])
    logits = jnp.exp(jnp.minimum(params["logit_scale"], np.log(100.0))) * embedded_images @ embedded_texts.T
    same = (ids[:, None] == ids[None, :]).all(-1)
    targets = same / same.sum(1, keepdims=True)
    losses = optax.softmax_cross_entropy(logits, targets), optax.softmax_cross_entropy(logits.T, targets)
    hit = jnp.take_along_axis(same, logits.argmax(1)[:, None], axis=1).mean()
    return (losses[0].mean() + losses[1].mean()) / 2, hit


def pool_text(states: jax.Array, ids: jax.Array, eos_token_id: int) -> jax.Array:
    """The state [b, d] at each prompt's first end token."""
    position = (ids == eos_token_id).argmax(1)
    return jnp.take_along_axis(states, position[:, None, None], axis=1)[:, 0]


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
