"""The state of training, and the optimizer that changes it."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from blocklora_jax.adapters.lora import apply_masks
from blocklora_jax.layouts.low_rank import LoRAPair, LoRATree
from train.concept.algorithms import make_algorithm, make_schedule
from train.concept.averaging import average_parameters, saved_parameters
from train.concept.settings.optimizer import OptimizerSettings


class Trainable(NamedTuple):
    """The trained parameters.

    lora: fp32 pairs. tokens: the concept's embeddings, fp32 [v, d]. tokens_2: those for SDXL's second text encoder.
    """

    lora: LoRATree
    tokens: Float[Array, "v d"]
    tokens_2: Float[Array, "v d2"] | None = None

    def tokens_of(self, component: str) -> Float[Array, "v _"]:
        """The embeddings for "text_encoder" or "text_encoder_2"."""
        tokens = self.tokens_2 if component == "text_encoder_2" else self.tokens
        assert tokens is not None
        return tokens


class TrainState(NamedTuple):
    """The state between two steps.

    step: int32, finished steps. key: seeds the noise of every step. masks: of the adapter, never changed.
    trainable, opt_state: changed by the optimizer.
    """

    step: Int[Array, ""]
    key: PRNGKeyArray
    masks: LoRATree
    trainable: Trainable
    opt_state: optax.OptState

    @property
    def saved(self) -> Trainable:
        """The parameters that the adapter file gets: their average if there is one."""
        return saved_parameters(self.trainable, self.opt_state)


def make_optimizer(settings: OptimizerSettings, steps: int, frozen_down: bool = False) -> optax.GradientTransformation:
    """The optimizer, with separate learning rates for the U-Net's adapter, the text encoders' adapters, and the tokens.

    steps: of the whole training. frozen_down: the down projection stays the same, bit for bit; it has no weight decay
    either.
    """

    def with_rate(peak: float) -> optax.GradientTransformation:
        return make_algorithm(settings, make_schedule(settings, peak, steps))

    transforms: dict[Hashable, optax.GradientTransformation] = {
        "unet": with_rate(settings.learning_rate),
        "text_encoder": with_rate(settings.text_learning_rate),
        "tokens": with_rate(settings.token_learning_rate),
        "frozen": optax.set_to_zero(),
    }
    labels = partial(_labels, frozen_down=frozen_down)
    parts = [optax.clip_by_global_norm(settings.clip_norm), optax.multi_transform(transforms, labels)]
    return optax.chain(*parts, *([average_parameters(settings.ema)] if settings.ema else []))


def masked_lora(lora: LoRATree, masks: LoRATree, frozen_down: bool) -> LoRATree:
    """The pairs that a step uses. A frozen down projection gets no gradient."""
    masked = apply_masks(lora, masks)
    if not frozen_down:
        return masked
    return {
        part: {path: pair._replace(lora_A=jax.lax.stop_gradient(pair.lora_A)) for path, pair in layers.items()}
        for part, layers in masked.items()
    }


def _labels(trainable: Trainable, frozen_down: bool) -> Any:
    rate = {"unet": "unet", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder"}
    lora = {
        part: {
            path: LoRAPair(cast(Any, "frozen" if frozen_down else rate[part]), cast(Any, rate[part])) for path in layers
        }
        for part, layers in trainable.lora.items()
    }
    tokens = jax.tree.map(lambda _: "tokens", (trainable.tokens, trainable.tokens_2))
    return Trainable(cast(Any, lora), *tokens)


def init_state(
    trainable: Trainable, masks: LoRATree, optimizer: optax.GradientTransformation, key: PRNGKeyArray
) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), key, masks, trainable, optimizer.init(cast(Any, trainable)))


def stack(states: list) -> TrainState:
    """States (or batches) of several concepts as one, on a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
