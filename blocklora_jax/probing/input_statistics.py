"""Statistics of layers' inputs on each concept's prompts and on ordinary prompts.

A joint fit of adapters needs only these, and no pictures of the concepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.diffusion.text import Ids
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import random_ids, trigger_prompts
from blocklora_jax.probing.memory import layer_groups, rows_at_once
from blocklora_jax.probing.probe import Probe, own_tokens, row_parts, with_tokens
from blocklora_jax.probing.text_attention import TextAttention
from blocklora_jax.probing.triggers import check_triggers
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


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InputGroup:
    """Some layers, whose inputs are measured together when they are asked for.

    readers: by layer whose inputs are measured, the layers that read them. All layers of the U-Net that read text have
        the same inputs.
    shares: the attention to each text position, by the adapter's number and its weight, once it is measured.
    """

    sd: StableDiffusion
    adapters: Sequence[Adapter]
    words: PromptWords
    config: ConversionConfig
    readers: Mapping[str, Sequence[str]]
    probe: Probe
    weigh: TextAttention | None
    shares: dict[tuple[int, float], Float[np.ndarray, "b t"]]
    progress: Any

    def own(self, index: int) -> dict[str, Float[np.ndarray, "_ _"]]:
        """X^T X with trace 1, on prompts that call the concept of adapter number `index`, with the adapter."""
        adapter = self.adapters[index]
        ids = self.sd.tokenizer.encode(trigger_prompts(adapter, self.words, self.config), token_counts([adapter]))
        params = with_tokens(self.sd.params, own_tokens(self.sd, adapter))
        return self._measure(index, params, ids, self.config.seed, weight=1.0)

    def ordinary(self) -> dict[str, Float[np.ndarray, "_ _"]]:
        """X^T X on prompts that call no concept: the mean over the random prompts of all adapters."""
        total: dict[str, np.ndarray] = {}
        for index in range(len(self.adapters)):
            _sum_into(total, self._random(index))
        for gram in total.values():
            gram /= len(self.adapters)
        return total

    def skip(self) -> None:
        """Show these layers as measured."""
        self.progress.update(2 * len(self.adapters))

    def _random(self, index: int) -> dict[str, np.ndarray]:
        # Whole chunks, so that nothing is compiled for a smaller last chunk.
        chunk, share = self.config.chunk, self.config.random_prompts // len(self.adapters)
        count = max(chunk, share // chunk * chunk)
        ids, params = random_ids(self.sd, self.adapters[index], self.words, self.config, count)
        return self._measure(index, params, ids, self.config.seed + 1, weight=0.0)

    def _measure(
        self, index: int, params: Mapping[str, Any], ids: Ids, seed: int, *, weight: float
    ) -> dict[str, np.ndarray]:
        """X^T X with trace 1, with adapter number `index` at this weight."""
        total, adapter = {}, self.adapters[index]
        if self.weigh is None:
            total = self.probe(params, adapter, ids, None, seed, weight=weight)
        else:
            weights = self._weights(index, params, ids, seed, weight=weight)
            for chunk in row_parts(len(ids), self.probe.chunk):
                noise, part = self.probe.noise(seed + chunk.start, 0, len(ids[chunk])), {}
                self.probe.add(part, params, adapter, ids[chunk], weights[chunk], noise, weight=weight)
                _sum_into(total, part)
        self.progress.update()
        for gram in total.values():
            gram /= max(np.trace(gram), 1e-30)
        return total

    def _weights(
        self, index: int, params: Mapping[str, Any], ids: Ids, seed: int, *, weight: float
    ) -> Float[jax.Array, "b t"]:
        """The weights of the rows that are text."""
        assert self.weigh is not None
        key = index, weight
        if key not in self.shares:
            self.shares[key] = self.weigh(params, self.adapters[index], ids, seed, weight=weight)
        share = self.shares[key]
        return jnp.asarray((1 - EVEN) * share + EVEN / share.shape[1], jnp.float32)


def input_groups(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    words: PromptWords | None = None,
    config: ConversionConfig | None = None,
    *,
    attention: bool = False,
    memory: float | None = None,
) -> Iterator[InputGroup]:
    """Groups of the adapted layers, as many layers in each as the memory has room for. Arguments and errors as for
    `measure_inputs`.
    """
    words, config = words or words_for(sd.checkpoint.name), config or ConversionConfig()
    check_triggers(adapters, words)
    readers = _readers(input_layers(adapters))
    at_once, shares = rows_at_once(sd, config.chunk, memory), {}
    groups = layer_groups(gram_bytes(adapters, readers), memory)
    attends = attention and any(map(_attends_to_text, readers))
    weigh = TextAttention(sd, chunk=config.chunk, at_once=at_once) if attends else None
    runs = 2 * len(adapters) * len(groups)
    # The progress bar shows only on a terminal.
    with tqdm(desc="inputs", total=runs, unit="run", dynamic_ncols=True, disable=None) as progress:
        for group in groups:
            probe = Probe(sd, frozenset(group), _gram, config.steps, config.chunk, at_once)
            yield InputGroup(
                sd=sd, adapters=adapters, words=words, config=config, probe=probe, weigh=weigh, shares=shares,
                readers={layer: readers[layer] for layer in group}, progress=progress,
            )  # fmt: skip


def measure_inputs(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    words: PromptWords | None = None,
    config: ConversionConfig | None = None,
    *,
    attention: bool = False,
    memory: float | None = None,
) -> Inputs:
    """Measures the inputs on `config.prompts` prompts for each adapter, and on random prompts.

    The U-Net runs only if an adapter changes layers that read the picture, or with `attention`. The host holds all
    matrices; `input_groups` gives those of some layers at a time.

    Args:
        attention: weight the text positions by the attention that they get, in the U-Net's layers that read text (see
            `TextAttention`). A tenth of the weight is spread evenly. Otherwise all positions have equal weight.
        memory: GiB that may be used on the device beside the weights, see `memory.default_memory`.

    Raises: UserError for an adapter whose trigger is empty, or is a class noun or a subject of random prompts.
    """
    grams, ordinary = {}, {}
    for group in input_groups(sd, adapters, words, config, attention=attention, memory=memory):
        own = [group.own(index) for index in range(len(adapters))]
        random = group.ordinary()
        for layer, readers in group.readers.items():
            grams |= dict.fromkeys(readers, [part.pop(layer) for part in own])
            ordinary |= dict.fromkeys(readers, random.pop(layer))
    return Inputs(dict(sorted(grams.items())), dict(sorted(ordinary.items())))


def gram_bytes(adapters: Sequence[Adapter], layers: Iterable[str]) -> dict[str, int]:
    """Bytes of the matrices X^T X of these layers, in fp32."""
    shapes = [(component, kernels) for adapter in adapters for component, kernels in adapter.shapes().items()]
    rows = {f"{component}/{path}": n for component, kernels in shapes for path, (n, _) in kernels.items()}
    return {layer: 4 * rows[layer] ** 2 for layer in layers}


def input_layers(adapters: Sequence[Adapter]) -> list[str]:
    """The names of all adapted layers, sorted."""
    return sorted({f"{c}/{path}" for adapter in adapters for c, group in adapter.lora.items() for path in group})


def _readers(layers: Sequence[str]) -> dict[str, list[str]]:
    """By layer whose inputs are measured, the layers that read them."""
    of_text = [layer for layer in layers if _attends_to_text(layer)]
    return {layer: of_text if layer in of_text else [layer] for layer in layers if layer not in of_text[1:]}


def _sum_into(total: dict[str, np.ndarray], part: dict[str, np.ndarray]) -> None:
    for layer in list(part):
        gram = part.pop(layer)
        total[layer] = np.add(total[layer], gram, out=total[layer]) if layer in total else gram


def _attends_to_text(layer: str) -> bool:
    return layer.startswith("unet/") and reads_text(layer)


def _gram(layer: str, x: jax.Array, y: jax.Array, weights: jax.Array | None) -> jax.Array:
    """X^T X, weighted where `x` is text. weights: one for each row of text."""
    x = x.astype(jnp.float32)
    rows = x if weights is None or not _attends_to_text(layer) else x * weights.reshape(-1, 1)
    return jnp.matmul(x.T, rows, precision=jax.lax.Precision.HIGHEST)
