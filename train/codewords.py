"""Codewords: for every slot a start token whose text features lie mostly in the slot's directions of the text basis.

    minimise over the slot's token   log(others / own) + relu(|token| / natural - limit)^2

over prompts with the token. own and others are the energies of the text features in the slot's own and in all other
directions (see `adapters.token_side`). Each slot's token is optimised separately. This needs only the text encoders: no
pictures and no user data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from tqdm.auto import tqdm

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.token_side import (
    counted_energies,
    direction_energies,
    log_ratio,
    natural_norm,
    norm_excess,
    own_and_others,
    owned_mask,
    token_starts,
)
from blocklora_jax.diffusion.models import Models, token_table, with_token_rows
from blocklora_jax.diffusion.text import encode_text, ids_of
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.prompts.padding import crop_padding
from blocklora_jax.prompts.random_prompts import NEGATIVE, PromptWords, random_prompt
from blocklora_jax.prompts.shares import RandomPromptShares
from train.codeword_settings import CodewordSettings, Positions
from train.concept.text import with_table

# Arguments that come from the host are NumPy arrays.
Rows = Array | np.ndarray
# By text encoder, [slots, v, d].
Tokens = dict[str, Any]
# Every prompt has a negative token, which the codeword replaces.
_EVERY = RandomPromptShares(own_class=0.0, negative=1.0, empty=0.0)
_DEFAULTS = CodewordSettings()


def codeword_prompts(words: PromptWords, count: int, seed: int) -> list[str]:
    """`count` prompts with a token in them. In every fourth, no noun follows the token."""
    rng = np.random.default_rng((seed, 0xC0DE))
    pairs = [random_prompt(rng, words, _EVERY, words.subjects[0]) for _ in range(count)]
    return [
        text.replace(f"{NEGATIVE} {subject}", NEGATIVE) if i % 4 == 3 else text
        for i, (text, subject) in enumerate(pairs)
    ]


def split_words(words: PromptWords) -> tuple[PromptWords, PromptWords]:
    """Words to optimise on, and held-out words to test the result: every other word."""

    def half(first: int) -> PromptWords:
        parts = (words.styles, words.subjects, words.scenes)
        return PromptWords(
            **dict(zip(("styles", "subjects", "scenes"), (p[first::2] or p for p in parts), strict=True))
        )

    return half(0), half(1)


def optimise_codewords(
    sd: StableDiffusion,
    whitened: Float[np.ndarray, "d d"],
    num_blocks: int,
    prompts: Sequence[str],
    settings: CodewordSettings = _DEFAULTS,
    only: Sequence[int] | None = None,
) -> Tokens:
    """The codewords of all slots, fp32 by text encoder [K, v, d]. whitened: see `token_side.whitened_directions`.

    only: the slots to optimise, [slots, v, d]; all K if not given.
    """
    every = np.arange(num_blocks) if only is None else np.asarray(only)
    ids = crop_padding(sd.tokenizer.encode(prompts, {NEGATIVE: settings.vectors}))
    owned = slot_masks(num_blocks, len(whitened))
    optimizer = optax.adam(settings.learning_rate)
    update, chunk = jax.jit(_make_update(sd.models, settings, optimizer)), min(settings.chunk, len(every))
    finished = []
    with tqdm(total=-(-len(every) // chunk) * settings.steps, desc=f"codewords, K = {num_blocks}", unit="step") as bar:
        for first in range(0, len(every), chunk):
            # The last chunk is filled up with the first slots, so that all chunks share one compiled program.
            slots = np.take(every, range(first, first + chunk), mode="wrap")
            tokens = first_tokens(sd, slots, settings)
            state, rng = optimizer.init(tokens), np.random.default_rng((settings.seed, 0xADA))
            for _ in range(settings.steps):
                chosen = ids[rng.integers(len(ids), size=settings.prompts)]
                tokens, state = update(tokens, state, sd.params, chosen, owned[slots], whitened)
                bar.update()
            finished.append({part: _unscale(tokens[part], token_table(sd.params, part)) for part in tokens})
    return {part: np.concatenate([each[part] for each in finished])[: len(every)] for part in finished[0]}


def first_tokens(sd: StableDiffusion, slots: Int[np.ndarray, " c"], settings: CodewordSettings) -> Tokens:
    """The initial tokens, in standard deviations of the table around its mean. Each slot has its own random key."""
    keys = [jax.random.fold_in(jax.random.key(settings.seed), int(slot)) for slot in slots]
    widths = {part: token_table(sd.params, part).shape[1] for part in sd.models.text_encoders}
    return {
        part: jnp.stack([jax.random.normal(jax.random.fold_in(k, i), (settings.vectors, width)) for k in keys])
        for i, (part, width) in enumerate(widths.items())
    }


def slot_masks(num_blocks: int, width: int) -> Bool[np.ndarray, "K d"]:
    """Which of `width` directions each of the slots owns, where all layers that read text share one assignment."""
    partition = Partition(num_blocks=num_blocks, basis="0" * 16, assignment="text")
    return np.stack([owned_mask(partition.directions("", width, (slot,)), width) for slot in range(num_blocks)])


def speech_ratios(
    sd: StableDiffusion,
    tokens: Tokens,
    whitened: Float[np.ndarray, "d d"],
    prompts: Sequence[str],
    chunk: int = 8,
    own: Positions = "rest",
) -> Float[np.ndarray, " K"]:
    """The ratio own / others of each slot's token over all `prompts`.

    own: the positions of own energy: the token's, or all from the token on. Others are over all from the token on.
    """
    count, vectors = next(iter(tokens.values())).shape[:2]
    ids, owned = sd.tokenizer.encode(prompts, {NEGATIVE: vectors}), slot_masks(count, len(whitened))
    measure = jax.jit(lambda tokens, params, owned: -_log_ratios(sd.models, tokens, params, ids, owned, whitened, own))
    chunks = [np.arange(first, first + chunk) % count for first in range(0, count, chunk)]
    ratios = [
        measure({p: jnp.asarray(t)[slots] for p, t in tokens.items()}, sd.params, owned[slots]) for slots in chunks
    ]
    return np.exp(np.concatenate([np.asarray(each) for each in ratios])[:count])


def _make_update(models: Models, settings: CodewordSettings, optimizer: optax.GradientTransformation) -> Callable:
    """One Adam step for the tokens of c slots. Their losses are summed, so each token gets only its own gradient."""

    def loss(scaled: Tokens, params: Mapping[str, Any], ids: Rows, owned: Rows, whitened: Rows) -> Array:
        tokens = {part: _unscale(scaled[part], token_table(params, part)) for part in scaled}
        excess = [norm_excess(tokens[part], natural_norm(token_table(params, part)), settings.limit) for part in tokens]
        return (_log_ratios(models, tokens, params, ids, owned, whitened, settings.own) + sum(excess)).sum()

    def update(tokens: Tokens, state: Any, params: Mapping[str, Any], ids: Rows, owned: Rows, whitened: Rows):
        gradient = jax.grad(loss)(tokens, params, ids, owned, whitened)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(tokens, updates), state

    return update


def _unscale(scaled: Float[Array, "c v d"], table: Float[Array, "n d"]) -> Float[Array, "c v d"]:
    return table.mean(0)[None, None] + table.std() * scaled


def _log_ratios(
    models: Models,
    tokens: Tokens,
    params: Mapping[str, Any],
    ids: Rows,
    owned: Bool[Rows, "c d"],
    whitened: Rows,
    own: Positions,
) -> Float[Array, " c"]:
    """log(others / own) of the tokens of c slots, each in the same p prompts. own: where own energy is measured."""
    ids, longer = jnp.asarray(ids), dict(params)
    count, vectors = next(iter(tokens.values())).shape[:2]
    rows, prompts = len(token_table(params)), len(ids)
    for part, token in tokens.items():
        table = token_table(params, part)
        longer = with_table(longer, jnp.concatenate([table, token.reshape(-1, table.shape[1])]), part)
    shift = (jnp.arange(count) * vectors).reshape(-1, *(1,) * ids.ndim)
    each = jnp.where(ids[None] >= rows, ids[None] + shift, ids[None]).reshape(count * prompts, *ids.shape[1:])
    states = encode_text(with_token_rows(models, longer), longer, each).states
    states, directions = states.reshape(count, prompts, *states.shape[1:]), jnp.asarray(whitened)
    first = jnp.asarray(ids_of(ids, "text_encoder"))
    energies = jax.vmap(direction_energies, (0, None, None))(states, token_starts(first, rows), directions)
    heard = energies
    if own == "token":
        heard = jax.vmap(counted_energies, (0, None, None))(states, first >= rows, directions)

    def ratio(energy: Array, heard: Array, mask: Array) -> Array:
        return log_ratio(own_and_others(heard, mask)[0], own_and_others(energy, mask)[1])

    return jax.vmap(ratio)(energies, heard, jnp.asarray(owned))
