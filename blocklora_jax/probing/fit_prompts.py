"""The prompts on which layers are observed for a conversion or a joint fit: a concept's own, and random ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.diffusion.text import ids_of
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.probe import with_tokens
from blocklora_jax.prompts.random_prompts import PromptWords, RandomPrompts, article, make_random_prompts
from blocklora_jax.prompts.shares import RandomPromptShares

_SHARES = RandomPromptShares()
_BEFORE_SCENES = ("in", "in a", "on a")


def trigger_prompts(adapter: Adapter, words: PromptWords, config: ConversionConfig) -> list[str]:
    """Prompts that call the concept. Its place in a prompt depends on its kind.

    A person or thing is the subject, in all styles and scenes. A scene is the place of other subjects. A style is the
    way in which other subjects are shown. A fifth of the prompts have a second subject.
    """
    rng = np.random.default_rng((config.seed, 0x7216))
    return [_trigger_prompt(adapter.info, words, rng) for _ in range(config.prompts)]


def _trigger_prompt(info: AdapterInfo, words: PromptWords, rng: np.random.Generator) -> str:
    style, other, scene = (str(rng.choice(options)) for options in (words.styles, words.subjects, words.scenes))
    has_companion, has_scene, subject = rng.random() < 0.2, rng.random() < 0.8, info.trigger
    if info.kind in ("scene", "style"):
        subject, other = f"{article(other)} {other}", str(rng.choice(words.subjects))
    if info.kind == "scene":
        scene = f"{rng.choice(_BEFORE_SCENES)} {info.trigger}"
    elif info.kind == "style":
        style = f"a {info.trigger} of"
    if has_companion:
        subject = f"{subject} and {article(other)} {other}"
    if not has_scene:
        # A concept that is a scene stays in the prompt.
        return f"{style} a {info.trigger}" if info.kind == "scene" else f"{style} {subject}"
    return f"{style} {subject} {scene}"


def random_ids(
    sd: StableDiffusion,
    adapter: Adapter,
    words: PromptWords,
    config: ConversionConfig,
    count: int,
    negatives: Mapping[str, Float[np.ndarray, "p v d"]] | None = None,
    shares: RandomPromptShares = _SHARES,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Ids of `count` random prompts, some with negative tokens, and params with the embeddings of these tokens.

    negatives: these embeddings by text encoder, for each prompt; None: they are drawn around class nouns. shares: of
    the sorts of prompts.
    """
    vectors = sum(token_counts([adapter]).values()) or 2
    pool = make_random_prompts(
        sd.tokenizer, words, shares, adapter.info.class_noun, ("<own>", vectors), config.seed, count
    )  # fmt: skip
    rng, rows, ids = np.random.default_rng((config.seed, 0xF0E)), {}, []
    for component in sd.models.text_encoders:
        table = np.asarray(token_table(sd.params, component))
        if negatives is None:
            rows[component] = [_negative_tokens(rng, table, pool, vectors, config.token_spread)]
        else:
            rows[component] = [negatives[component].reshape(-1, table.shape[1])]
        # The pool reserves the first new ids for the concept's own token, which these prompts do not use. So the rows
        # of the negative tokens begin there.
        first, pool_ids = len(table) + vectors, ids_of(pool.ids, component)
        prompt = np.arange(len(pool_ids))[:, None]
        ids.append(np.where(pool_ids >= first, pool_ids - vectors + vectors * prompt, pool_ids))
    return np.stack(ids, axis=1).reshape(pool.ids.shape), with_tokens(sd.params, rows)


def _negative_tokens(rng: Any, table: np.ndarray, pool: RandomPrompts, vectors: int, spread: float) -> np.ndarray:
    noise = rng.standard_normal((len(pool.nouns), vectors, table.shape[1]), np.float32)
    return (table[pool.nouns][:, None] + spread * table.std() * noise).reshape(-1, table.shape[1])
