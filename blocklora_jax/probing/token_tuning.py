"""Tunes the tokens of adapters that are merged: their prompts, what the layers did before, and what they do after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.diffusion.text import Ids
from blocklora_jax.diffusion.text_chunks import encode_in_chunks, join_chunks
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import trigger_prompts
from blocklora_jax.probing.probe import own_tokens, with_tokens
from blocklora_jax.probing.text_layers import LEAST_OUTPUT, Own, TextLayers
from blocklora_jax.probing.triggers import check_triggers
from blocklora_jax.probing.tuned_token import Goal, TuningConfig, tune_token
from blocklora_jax.prompts.padding import KEPT, crop_padding
from blocklora_jax.prompts.random_prompts import PromptWords


class Tuned(NamedTuple):
    """A concept's tuned token rows by text encoder, and the error before and after (see `merge.tune_tokens`).

    share: how much of the concept's own output is there afterwards. NaN if it has none.
    """

    tokens: dict[str, np.ndarray]
    before: float
    after: float
    share: float


class _Text(NamedTuple):
    """Text features of a concept's prompts, fp32; the pooled text if the U-Net reads it."""

    states: Float[np.ndarray, "p t n"]
    pooled: Float[np.ndarray, "p d"] | None


def tune(
    sd: StableDiffusion,
    merged: Mapping[str, Any],
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    words: PromptWords | None,
    config: TuningConfig,
) -> Iterator[Tuned]:
    """The tuned token of each adapter. Those without a token have none, and NaN for the numbers.

    merged: the parameters of the merged model. words: of the prompts; None: a list that fits the model.

    Raises: UserError for a trigger that is empty, lacks the token, or occurs in random prompts.
    """
    words = words or words_for(sd.checkpoint.name)
    called = [index for index, adapter in enumerate(adapters) if adapter.tokens]
    check_triggers([adapters[index] for index in called], words)
    prompts = _Prompts(sd, {index: adapters[index] for index in called}, words, config)
    # Text is encoded again below, so that the features of many concepts are never held at once.
    moments = np.zeros(())
    for index in called:
        states = prompts.encode(index, _own_rows(sd, adapters[index])).states
        moments = moments + prompts.products(states, states) / len(called)
    layers = TextLayers.of(sd.params, merged, moments)
    root = jnp.asarray(layers.root, jnp.float32)
    for index, (adapter, weight) in enumerate(zip(adapters, weights, strict=True)):
        if index not in called:
            yield Tuned({}, np.nan, np.nan, np.nan)
            continue
        before, own = prompts.encode(index, _own_rows(sd, adapter)), layers.own(adapter, float(weight))
        unit = _own_output(own, prompts.products(before.states, before.states), len(layers.units))
        goal = Goal(
            ids=prompts.ids[index], wanted=layers.wanted(own, before.states), counted=prompts.counted,
            pooled=before.pooled, root=root, unit=np.asarray(unit, np.float32),
            **_strength(own, before.states),
        )  # fmt: skip
        tokens = tune_token(sd.models, prompts.towers, _own_rows(sd, adapter), goal, config)
        after = prompts.encode(index, tokens)
        first, last = (prompts.error(layers, own, before, text, unit) for text in (before, after))
        yield Tuned(tokens, first, last, prompts.share(own, before, after))


class _Prompts:
    """The prompts that call each concept, all cropped to the same length.

    counted: how often each position counts. The last ones stand for the padding that is cut off.
    """

    def __init__(self, sd: StableDiffusion, adapters: Mapping[int, Adapter], words: PromptWords, config: TuningConfig):
        asked = ConversionConfig(prompts=config.prompts, seed=config.seed)
        ids = {i: sd.tokenizer.encode(trigger_prompts(a, words, asked), token_counts([a])) for i, a in adapters.items()}
        whole = next(iter(ids.values())).shape[-1]
        length = min(whole, max(crop_padding(own).shape[-1] for own in ids.values()))
        self.ids: dict[int, Ids] = {index: own[..., :length] for index, own in ids.items()}
        self.counted = np.ones(length, np.float32)
        self.counted[-KEPT:] += (whole - length) / KEPT
        # On the device, because NumPy parameters would be copied there at every call.
        self.towers = {part: jax.device_put(sd.params[part]) for part in sd.models.text_encoders}
        self._models, self._chunk = sd.models, config.chunk

    def encode(self, index: int, tokens: Mapping[str, Any]) -> _Text:
        """The text features of the prompts of adapter number `index`, with these rows for its tokens."""
        towers = with_tokens(self.towers, {part: [rows] for part, rows in tokens.items()})
        text = join_chunks(encode_in_chunks(self._models, towers, self.ids[index], self._chunk))
        return _Text(np.asarray(text.states), None if text.pooled is None else np.asarray(text.pooled))

    def products(self, left: Float[np.ndarray, "p t n"], right: Float[np.ndarray, "p t n"]) -> Float[np.ndarray, "n n"]:
        """The mean of left^T right over prompts and positions, fp64."""
        counted, width = np.tile(self.counted, len(left))[:, None], left.shape[-1]
        weighed = left.reshape(-1, width) * (counted / counted.sum())
        return (weighed.T @ right.reshape(-1, width)).astype(np.float64)

    def error(self, layers: TextLayers, own: Own, before: _Text, now: _Text, unit: float) -> float:
        """The size of the difference over that of the adapter's own output, over all layers."""
        then, after = before.states, now.states
        products = (self.products(*pair) for pair in ((then, after), (then, then), (after, after)))
        return float(np.sqrt(max(own.squared_error(layers.gram, *products), 0.0) / unit))

    def share(self, own: Own, before: _Text, now: _Text) -> float:
        """How much of the adapter's own output is in the merged output."""
        then, across = self.products(before.states, before.states), self.products(before.states, now.states)
        wanted = np.sum(own.change * then)
        return float((np.sum(own.by_merged * across) - np.sum(own.by_base * then)) / wanted) if wanted else np.nan


def _own_rows(sd: StableDiffusion, adapter: Adapter) -> dict[str, np.ndarray]:
    """The rows of all of the adapter's tokens by text encoder, in the order of `token_counts`."""
    return {
        part: np.concatenate([np.asarray(rows, np.float32) for rows in vectors])
        for part, vectors in own_tokens(sd, adapter).items()
        if vectors
    }


def _strength(own: Own, states: Float[np.ndarray, "p t n"]) -> dict[str, np.ndarray]:
    """The fields of `Goal` that tell how much of the concept's own output is there."""
    along = states @ own.by_merged
    base, size = (np.sum((states @ products) * states, axis=-1) for products in (own.by_base, own.change))
    return {name: x.astype(np.float32) for name, x in {"along": along, "base": base, "own": size}.items()}


def _own_output(own: Own, moments: Float[np.ndarray, "n n"], layers: int) -> float:
    """|x F|^2 of all layers, in units of the base's output."""
    return max(float(np.sum(own.change * moments)), LEAST_OUTPUT * layers)
