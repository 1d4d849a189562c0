"""Statistics of layers' inputs on each concept's prompts and on ordinary prompts.

Fitting adapters to each other needs only these, and no picture of a concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.diffusion.text import Ids
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion import ConversionConfig, check_trigger, random_ids, trigger_prompts
from blocklora_jax.probing.probe import Probe, own_tokens, with_tokens
from blocklora_jax.probing.text_attention import TextAttention
from blocklora_jax.prompts.random_prompts import PromptWords

# This share of the weight is spread evenly over the text positions, so that positions with little attention also count.
EVEN = 0.1


class Inputs(NamedTuple):
    """By layer ("unet/…/to_k") the matrices X^T X [n, n] of its inputs, each with trace 1, so that all count alike.

    grams: one an adapter, on prompts that call its concept. ordinary: on prompts about anything else.
    """

    grams: Mapping[str, Sequence[Float[np.ndarray, "_ _"]]]
    ordinary: Mapping[str, Float[np.ndarray, "_ _"]]

    def __repr__(self) -> str:
        return f"Inputs({max(map(len, self.grams.values()), default=0)} adapters, {len(self.grams)} layers)"


def measure_inputs(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    words: PromptWords | None = None,
    config: ConversionConfig | None = None,
    *,
    attention: bool = False,
) -> Inputs:
    """Run the text encoders, and the U-Net where layers read pictures, on `config.prompts` prompts an adapter.

    Args:
        attention: in the U-Net's layers that read text, the positions of the text are weighted by the attention that
            they get (see `TextAttention`), up to a tenth that is weighted evenly. Otherwise all have equal weight.

    Raises: UserError for an adapter without a trigger of its own.
    """
    words, config = words or words_for(sd.checkpoint.name), config or ConversionConfig()
    for adapter in adapters:
        check_trigger(adapter, words)
    # Whole chunks, so that nothing is compiled for a smaller last chunk.
    each = max(config.chunk, config.random_prompts // len(adapters) // config.chunk * config.chunk)
    layers = sorted({f"{c}/{path}" for adapter in adapters for c, group in adapter.lora.items() for path in group})
    # All layers of the U-Net that read text have the same inputs.
    readers = [layer for layer in layers if _attends_to_text(layer)]
    seen = frozenset(layers) - frozenset(readers[1:])
    probe = Probe(sd, seen, _gram, config.steps, config.chunk)
    looks = TextAttention(sd, chunk=config.chunk) if attention and readers else None
    own, ordinary = [], []
    # A progress bar, if the output is a terminal.
    for adapter in tqdm(adapters, desc="inputs", unit="adapter", dynamic_ncols=True, disable=None):
        ids = sd.tokenizer.encode(trigger_prompts(adapter, words, config), token_counts([adapter]))
        own.append(_measure(probe, looks, with_tokens(sd.params, own_tokens(sd, adapter)), adapter, ids, config.seed))
        ids, longer = random_ids(sd, adapter, words, config, each)
        ordinary.append(_measure(probe, looks, longer, None, ids, config.seed + 1))
    mean = {layer: np.mean([found[layer] for found in ordinary], axis=0) for layer in seen}
    source = {layer: readers[0] if layer in readers else layer for layer in layers}
    return Inputs(
        {layer: [found[source[layer]] for found in own] for layer in layers},
        {layer: mean[source[layer]] for layer in layers},
    )


def _attends_to_text(layer: str) -> bool:
    return layer.startswith("unet/") and reads_text(layer)


def _measure(
    probe: Probe,
    looks: TextAttention | None,
    params: Mapping[str, Any],
    adapter: Adapter | None,
    ids: Ids,
    seed: int,
) -> dict[str, np.ndarray]:
    """X^T X by layer, each with trace 1; with `looks`, text rows by their attention."""
    if looks is None:
        return _unit(probe(params, adapter, ids, None, seed))
    share = looks(params, adapter, ids, seed)
    weights = jnp.asarray((1 - EVEN) * share + EVEN / share.shape[1], jnp.float32)
    chunks = [slice(at, at + probe.chunk) for at in range(0, len(ids), probe.chunk)]
    parts = [probe(params, adapter, ids[chunk], weights[chunk], seed + chunk.start) for chunk in chunks]
    return _unit({layer: np.sum([part[layer] for part in parts], axis=0) for layer in parts[0]})


def _gram(layer: str, x: jax.Array, y: jax.Array, weights: jax.Array | None) -> jax.Array:
    """weights: of the rows of `x` that are text."""
    x = x.astype(jnp.float32)
    rows = x if weights is None or not _attends_to_text(layer) else x * weights.reshape(-1, 1)
    return jnp.matmul(x.T, rows, precision=jax.lax.Precision.HIGHEST)


def _unit(grams: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {layer: gram / max(np.trace(gram), 1e-30) for layer, gram in grams.items()}
