"""Trains the token of a conversion through the text encoder, so that what a LoRA did fits into a slot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float
from tqdm.auto import tqdm

from blocklora_jax.adapters.token_side import (
    counted_energies,
    natural_norm,
    norm_excess,
    token_side_loss,
)
from blocklora_jax.diffusion.models import Models, with_token_rows
from blocklora_jax.diffusion.text import encode_text, ids_of
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.probing.probe import with_tokens
from blocklora_jax.probing.scaled_token import Token, scale_token, unscale_token
from blocklora_jax.probing.slot_prompts import SlotPrompts
from blocklora_jax.probing.text_conversion_config import TextConversionConfig

# From the host they are NumPy arrays.
Rows = Array | np.ndarray


class _Fixed(NamedTuple):
    """What stays the same in the training of a token, fp32.

    whitened: see `token_side.whitened_directions`. directions, owned: of the slot. erased: x_e^T x_e along them.
    root: |z root|^2 is the mean square of the wanted change, in units of the LoRA's; z is as in `slot_prompts.Moments`.
    """

    whitened: Float[Rows, "n n"]
    directions: Float[Rows, "n s"]
    owned: Bool[Rows, " n"]
    erased: Float[Rows, "s s"]
    root: Float[Rows, "z z"]


def train_token(
    prompts: SlotPrompts, whitened: Float[Rows, "n n"], root: Float[Rows, "z z"], config: TextConversionConfig
) -> Token:
    """The trained token, fp32 by text encoder [v, d]. whitened, root: see `_Fixed`."""
    models = prompts.sd.models
    towers = {part: prompts.sd.params[part] for part in models.text_encoders}
    erased = prompts.directions.T @ prompts.erased @ prompts.directions
    fixed = _Fixed(whitened, prompts.directions, prompts.owned, erased.astype(np.float32), root)
    fixed = jax.tree.map(jnp.asarray, fixed)
    scaled = scale_token(prompts.start, towers)
    state, rng = _optimizer(config).init(scaled), np.random.default_rng((config.seed, 0x510))
    for _ in tqdm(range(config.token_steps), desc=f"token of {prompts.name}", unit="step", leave=False, disable=None):
        rows = rng.integers(len(prompts.ids), size=config.chunk)
        batch = prompts.ids[rows], prompts.before[rows], prompts.counted[rows]
        scaled, state = _update(models, config, scaled, state, towers, fixed, *batch)
    return {part: np.asarray(rows, np.float32) for part, rows in unscale_token(scaled, towers).items()}


def _optimizer(config: TextConversionConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, max(config.token_steps, 1)))


# Compiled once for all LoRAs of a folder.
@partial(jax.jit, static_argnums=(0, 1))
def _update(
    models: Models,
    config: TextConversionConfig,
    scaled: Any,
    state: Any,
    towers: Mapping[str, Any],
    fixed: _Fixed,
    *batch: Rows,
) -> tuple[Any, Any]:
    """One step of Adam. batch: ids, features with the LoRA's words, and which positions count."""
    gradient = jax.grad(lambda own: _loss(models, config, unscale_token(own, towers), towers, fixed, *batch))(scaled)
    updates, state = _optimizer(config).update(gradient, state)
    return optax.apply_updates(scaled, updates), state


def _loss(
    models: Models,
    config: TextConversionConfig,
    token: Token,
    towers: Mapping[str, Any],
    fixed: _Fixed,
    ids: Rows,
    before: Rows,
    counted: Rows,
) -> Array:
    """Error and leakage of the best change for the token, in units of the LoRA's, and the terms of the token."""
    rows = token_table(towers).shape[0]
    longer = with_tokens(towers, {part: [own] for part, own in token.items()})
    states = encode_text(with_token_rows(models, longer), longer, ids).states.astype(jnp.float32)
    energies, at_token = (
        counted_energies(states, positions, fixed.whitened)
        for positions in (counted, ids_of(ids, "text_encoder") >= rows)
    )
    hinge, _ = token_side_loss(energies, fixed.owned, config.token_side_margin, at_token)
    excess = [
        norm_excess(own, natural_norm(token_table(towers, part)), config.token_norm_limit)
        for part, own in token.items()
    ]
    return _best_fit(config, fixed, states, before, counted) + config.token_side * hinge + sum(excess)


def _best_fit(config: TextConversionConfig, fixed: _Fixed, states: Array, before: Rows, counted: Rows) -> Array:
    """Error + lambda * leakage of the least squares change along the slot's directions, of any rank."""
    # Positions that do not count are rows of zeros.
    share = jnp.sqrt(counted / counted.sum())[..., None]
    now, old = ((x * share).reshape(-1, x.shape[-1]) for x in (states, before))
    along = now @ fixed.directions
    wanted = jnp.concatenate([old, old - now], axis=1) @ fixed.root
    metric = along.T @ along + config.erase_weight * fixed.erased
    ridge = max(config.ridge, 1e-6) * jnp.trace(metric) / len(metric)
    change = jnp.linalg.solve(metric + ridge * jnp.eye(len(metric)), along.T @ wanted)
    leakage = jnp.sum(change * (fixed.erased @ change))
    return jnp.sum(jnp.square(wanted - along @ change)) + config.erase_weight * leakage
