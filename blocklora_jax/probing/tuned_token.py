"""Trains a concept's token through the text encoder, so that a merged model draws what the concept's adapter draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from blocklora_jax.adapters.token_side import natural_norm, norm_excess
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.diffusion.models import Models, with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.probing.probe import with_tokens
from blocklora_jax.probing.scaled_token import Token, scale_token, unscale_token

# From the host they are NumPy arrays.
Rows = Array | np.ndarray


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Settings of the tuning of tokens.

    steps: of Adam.
    learning_rate: of the first step, in standard deviations of the token table. It falls to 0 along a cosine.
    token_norm_limit: the length of a token over which it is penalised, in lengths of ordinary tokens.
    strength_weight: weight of the squared difference from 1 of the share of the concept's own output that is there.
    prompts: number of prompts with the concept.
    chunk: prompts in each step.
    """

    steps: int = 120
    learning_rate: float = 0.2
    token_norm_limit: float = 3.0
    strength_weight: float = 3.0
    prompts: int = 64
    chunk: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(name, value)


class Goal(NamedTuple):
    """What a token is tuned for.

    x and x' are text features before and now; W, S and F are weights as in `text_layers`, of all layers together.

    ids: of the prompts. wanted: the best text features times `root` (see `TextLayers.wanted`). counted: how often each
    position counts. pooled: the pooled text before; None if the U-Net does not read it. root: see `TextLayers`. unit:
    the mean of |x F|^2 over positions. along: x F S^T. base: x F W^T x^T, and own: |x F|^2, for each position.
    """

    ids: Int[Rows, "p *e t"]
    wanted: Float[Rows, "p t q"]
    counted: Float[Rows, " t"]
    pooled: Float[Rows, "p d"] | None
    root: Float[Rows, "n q"]
    unit: Float[Rows, ""]
    along: Float[Rows, "p t n"]
    base: Float[Rows, "p t"]
    own: Float[Rows, "p t"]


def tune_token(
    models: Models, towers: Mapping[str, Any], token: Token, goal: Goal, config: TuningConfig
) -> dict[str, np.ndarray]:
    """The tuned token, fp32 [v, d] by text encoder. towers: the parameters of the text encoders."""
    rows = np.random.default_rng((config.seed, 0x70)).integers(len(goal.ids), size=(config.steps, config.chunk))
    tuned = run_tuning(models, config, towers, {part: jnp.asarray(own) for part, own in token.items()}, goal, rows)
    return {part: np.asarray(own, np.float32) for part, own in tuned.items()}


# All steps are one program. It is compiled once for all concepts whose tokens have as many vectors.
@partial(jax.jit, static_argnums=(0, 1))
def run_tuning(
    models: Models, config: TuningConfig, towers: Mapping[str, Any], token: Token, goal: Goal, rows: Rows
) -> dict[str, Array]:
    """See `tune_token`. rows: the prompts of each step, int32 [steps, chunk]."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, max(config.steps, 1)))

    def step(carried: tuple[Any, Any], batch: Array) -> tuple[tuple[Any, Any], None]:
        scaled, state = carried
        gradient = jax.grad(lambda own: _loss(models, config, towers, unscale_token(own, towers), goal, batch))(scaled)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(scaled, updates), state), None

    start = scale_token(token, towers)
    (scaled, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jnp.asarray(rows))
    return unscale_token(scaled, towers)


def _loss(
    models: Models, config: TuningConfig, towers: Mapping[str, Any], token: Token, goal: Goal, rows: Array
) -> Array:
    """The squared error of some prompts, in units of the adapter's own output, and the penalty on long tokens."""
    longer = with_tokens(towers, {part: [own] for part, own in token.items()})
    text = encode_text(with_token_rows(models, longer), longer, jnp.asarray(goal.ids)[rows])
    counted = jnp.asarray(goal.counted)
    answers = jnp.matmul(text.states.astype(jnp.float32), goal.root, precision="highest")
    squared = jnp.square(answers - jnp.asarray(goal.wanted)[rows]).sum(-1)
    error = (squared @ counted).mean() / counted.sum()
    if goal.pooled is not None and text.pooled is not None:
        before = jnp.asarray(goal.pooled)[rows]
        # As much as one layer counts, which is measured in units of the base's output.
        error += jnp.square(text.pooled.astype(jnp.float32) - before).sum() / jnp.square(before).sum()
    found = jnp.einsum("btn,btn->bt", text.states.astype(jnp.float32), jnp.asarray(goal.along)[rows])
    # An adapter without output has nothing to keep, and the share is 0 for every token.
    whole = jnp.maximum(jnp.sum(jnp.asarray(goal.own)[rows] @ counted), 1e-30)
    share = jnp.sum((found - jnp.asarray(goal.base)[rows]) @ counted) / whole
    excess = [
        norm_excess(own, natural_norm(token_table(towers, part)), config.token_norm_limit)
        for part, own in token.items()
    ]
    return error / goal.unit + config.strength_weight * jnp.square(1 - share) + sum(excess)
