"""Statistics of layers' inputs on each concept's prompts and on ordinary prompts.

A joint fit of adapters needs only these, and no pictures of the concepts.
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

# This share of the weight is spread evenly over the text positions, so that positions with little attention count too.
EVEN = 0.1


class Inputs(NamedTuple):
    """By layer ("unet/…/to_k"), the matrices X^T X [n, n] of its inputs, each with trace 1, so that all count equally.

    grams: one for each adapter, on prompts that call its concept. ordinary: on prompts that call no concept.
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
    """Measures the inputs on `config.prompts` prompts for each adapter, and on random prompts.

    The U-Net runs only if an adapter changes layers that read the picture, or with `attention`.

    Args:
        attention: weight the text positions by the attention that they get, in the U-Net's layers that read text (see
            `TextAttention`). A tenth of the weight is spread evenly. Otherwise all positions have equal weight.

    Raises: UserError for an adapter whose trigger is empty, or is a class noun or a subject of random prompts.
    """
    words, config = words or words_for(sd.checkpoint.name), config or ConversionConfig()
    for adapter in adapters:
        check_trigger(adapter, words)
    # Whole chunks, so that nothing is compiled for a smaller last chunk.
    random_count = max(config.chunk, config.random_prompts // len(adapters) // config.chunk * config.chunk)
    layers = sorted({f"{c}/{path}" for adapter in adapters for c, group in adapter.lora.items() for path in group})
    # All layers of the U-Net that read text have the same inputs.
    readers = [layer for layer in layers if _attends_to_text(layer)]
    seen = frozenset(layers) - frozenset(readers[1:])
    probe = Probe(sd, seen, _gram, config.steps, config.chunk)
    weigh = TextAttention(sd, chunk=config.chunk) if attention and readers else None
    on_trigger, on_random = [], []
    # The progress bar shows only on a terminal.
    for adapter in tqdm(adapters, desc="inputs", unit="adapter", dynamic_ncols=True, disable=None):
        ids = sd.tokenizer.encode(trigger_prompts(adapter, words, config), token_counts([adapter]))
        params = with_tokens(sd.params, own_tokens(sd, adapter))
        on_trigger.append(_measure(probe, weigh, params, adapter, ids, config.seed))
        ids, params = random_ids(sd, adapter, words, config, random_count)
        on_random.append(_measure(probe, weigh, params, None, ids, config.seed + 1))
    mean = {layer: np.mean([grams[layer] for grams in on_random], axis=0) for layer in seen}
    source = {layer: readers[0] if layer in readers else layer for layer in layers}
    return Inputs(
        {layer: [grams[source[layer]] for grams in on_trigger] for layer in layers},
        {layer: mean[source[layer]] for layer in layers},
    )


def _attends_to_text(layer: str) -> bool:
    return layer.startswith("unet/") and reads_text(layer)


def _measure(
    probe: Probe,
    weigh: TextAttention | None,
    params: Mapping[str, Any],
    adapter: Adapter | None,
    ids: Ids,
    seed: int,
) -> dict[str, np.ndarray]:
    """X^T X by layer, each with trace 1. weigh: gives the weights of the rows that are text; None: equal weights."""
    if weigh is None:
        return _unit(probe(params, adapter, ids, None, seed))
    share = weigh(params, adapter, ids, seed)
    weights = jnp.asarray((1 - EVEN) * share + EVEN / share.shape[1], jnp.float32)
    chunks = [slice(at, at + probe.chunk) for at in range(0, len(ids), probe.chunk)]
    parts = [probe(params, adapter, ids[chunk], weights[chunk], seed + chunk.start) for chunk in chunks]
    return _unit({layer: np.sum([part[layer] for part in parts], axis=0) for layer in parts[0]})


def _gram(layer: str, x: jax.Array, y: jax.Array, weights: jax.Array | None) -> jax.Array:
    """X^T X, weighted where `x` is text. weights: one for each row of text."""
    x = x.astype(jnp.float32)
    rows = x if weights is None or not _attends_to_text(layer) else x * weights.reshape(-1, 1)
    return jnp.matmul(x.T, rows, precision=jax.lax.Precision.HIGHEST)


def _unit(grams: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {layer: gram / max(np.trace(gram), 1e-30) for layer, gram in grams.items()}
