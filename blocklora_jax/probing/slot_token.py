"""Trains the token of a conversion through the text encoder, so that what a LoRA did fits into a slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm.auto import tqdm

from blocklora_jax.adapters.token_side import (
    counted_energies,
    natural_norm,
    norm_excess,
    token_side_loss,
)
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text, ids_of
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.probing.probe import with_tokens
from blocklora_jax.probing.slot_prompts import SlotPrompts, Token
from blocklora_jax.probing.text_conversion_config import TextConversionConfig


@dataclass(frozen=True, eq=False, repr=False)
class SlotToken:
    """The training of one token.

    whitened: see `token_side.whitened_directions`. root: a matrix of which |z root|^2 is the mean square of the wanted
    change, in units of the LoRA's, where z is as in `slot_prompts.Moments`.
    """

    prompts: SlotPrompts
    whitened: Float[np.ndarray, "n n"]
    root: Float[np.ndarray, "z r"]
    config: TextConversionConfig

    def train(self) -> Token:
        """The trained token, fp32 by text encoder [v, d]."""
        prompts, config = self.prompts, self.config
        tables = {part: jnp.asarray(token_table(prompts.sd.params, part), jnp.float32) for part in prompts.start}
        # In standard deviations of the table around its mean, so that one learning rate fits all models.
        scaled = {
            part: (rows - tables[part].mean(0)[None]) / tables[part].std() for part, rows in prompts.start.items()
        }
        optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, max(config.token_steps, 1)))
        towers = {part: prompts.sd.params[part] for part in prompts.sd.models.text_encoders}

        @jax.jit
        def update(scaled: Any, state: Any, towers: Mapping[str, Any], *batch: Array) -> tuple[Any, Any]:
            gradient = jax.grad(lambda token: self._loss(_unscale(token, tables), towers, *batch))(scaled)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(scaled, updates), state

        state, rng = optimizer.init(scaled), np.random.default_rng((config.seed, 0x510))
        for _ in tqdm(
            range(config.token_steps), desc=f"token of {prompts.name}", unit="step", leave=False, disable=None
        ):
            rows = rng.integers(len(prompts.ids), size=config.chunk)
            batch = prompts.ids[rows], prompts.before[rows], prompts.counted[rows]
            scaled, state = update(scaled, state, towers, *batch)
        return {part: np.asarray(rows, np.float32) for part, rows in _unscale(scaled, tables).items()}

    def _loss(self, token: Token, towers: Mapping[str, Any], ids: Array, before: Array, counted: Array) -> Array:
        """Error and leakage of the best change for the token, in units of the LoRA's, and the terms of the token."""
        models, config = self.prompts.sd.models, self.config
        rows = token_table(towers).shape[0]
        longer = with_tokens(towers, {part: [own] for part, own in token.items()})
        states = encode_text(with_token_rows(models, longer), longer, ids).states.astype(jnp.float32)
        fit = self._best_fit(states, before, counted)
        energies, at_token = (
            counted_energies(states, positions, self.whitened)
            for positions in (counted, ids_of(ids, "text_encoder") >= rows)
        )
        hinge, _ = token_side_loss(energies, self.prompts.owned, config.token_side_margin, at_token)
        excess = [
            norm_excess(own, natural_norm(token_table(towers, part)), config.token_norm_limit)
            for part, own in token.items()
        ]
        return fit + config.token_side * hinge + sum(excess)

    def _best_fit(self, states: Array, before: Array, counted: Array) -> Array:
        """Error + lambda * leakage of the least squares change along the slot's directions, of any rank."""
        config, directions = self.config, jnp.asarray(self.prompts.directions, jnp.float32)
        erased = jnp.asarray(directions.T @ self.prompts.erased @ directions, jnp.float32)
        # Positions that do not count are rows of zeros.
        share = jnp.sqrt(counted / counted.sum())[..., None]
        now, old = ((x * share).reshape(-1, x.shape[-1]) for x in (states, before))
        along = now @ directions
        wanted = jnp.concatenate([old, old - now], axis=1) @ jnp.asarray(self.root, jnp.float32)
        metric = along.T @ along + config.erase_weight * erased
        ridge = max(config.ridge, 1e-6) * jnp.trace(metric) / len(metric)
        change = jnp.linalg.solve(metric + ridge * jnp.eye(len(metric)), along.T @ wanted)
        leakage = jnp.sum(change * (erased @ change))
        return jnp.sum(jnp.square(wanted - along @ change)) + config.erase_weight * leakage


def _unscale(scaled: Token, tables: Mapping[str, Array]) -> dict[str, Array]:
    return {part: tables[part].mean(0)[None] + tables[part].std() * rows for part, rows in scaled.items()}
