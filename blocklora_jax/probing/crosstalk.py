"""Crosstalk: how much the adapters of other concepts change the layers' outputs on the prompts of a concept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.finite import check_finite
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.checks.texts import fill
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.memory import rows_at_once
from blocklora_jax.probing.probe import Probe, own_tokens, with_tokens
from blocklora_jax.prompts.shares import Kind

ALL = "all layers"
_WHERE = r"^.*(?:blocks?_\d+|attentions_\d+|resnets_\d+|layers/\d+)/"
_SUBJECT = (
    "a photo of {}", "a photo of {} on a beach", "a painting of {}", "a photo of {} in the snow", "a drawing of {}",
    "a photo of {} in a city", "a picture of {} in a forest", "{} in a garden",
)  # fmt: skip
_SCENE = (
    "a photo of a {}", "a photo of a man in a {}", "a painting of a dog in {}", "a photo of a woman on a {}",
    "a drawing of a house in a {}", "a photo of a car in {}", "a picture of a cat in a {}", "a boy in {}",
)  # fmt: skip
_STYLE = (
    "a {}", "a {} of a man on a beach", "a {} of a dog", "a {} of a woman in the snow", "a {} of a house",
    "a {} of a car in a city", "a {} of a cat in a forest", "a boy in a garden, a {}",
)  # fmt: skip
# The trigger's place in the prompt fits the concept's kind.
TEMPLATES: Mapping[Kind, tuple[str, ...]] = {
    "person": _SUBJECT, "object": _SUBJECT, "scene": _SCENE, "style": _STYLE,
}  # fmt: skip


class Crosstalk(NamedTuple):
    """How large the outputs of other concepts' adapters j are on the inputs x_i of concept i.

    pairs: |dW_j x_i| / |dW_i x_i| in row i, column j; 1 on the diagonal.
    others: |sum_{j != i} dW_j x_i| / |dW_i x_i|: all other adapters together.

    Both are infinite where the concept's own adapter has no output.
    """

    pairs: Float[np.ndarray, "i i"]
    others: Float[np.ndarray, " i"]

    def __repr__(self) -> str:
        return f"Crosstalk({len(self.others)} concepts, others at once: {np.max(self.others, initial=0):.3g} at most)"


def crosstalk(
    energies: Float[np.ndarray, "i j l"], base: Float[np.ndarray, "i l"], layers: Sequence[str]
) -> dict[str, Crosstalk]:
    """Crosstalk by type of layer ("unet attn2/to_k"), and over all layers.

        c_ij = sqrt( sum_l |dW_j x_i|^2 / |W x_i|^2  /  sum_l |dW_i x_i|^2 / |W x_i|^2 )

    Outputs in each layer l are measured relative to the base's output there, as in the erasure loss.

    Args:
        energies: |dW_j x_i|^2 of adapter j on the inputs that concept i's prompts give each layer. The last column
            (j = the number of concepts) is for the sum of all adapters except i's.
        base: |W x_i|^2.
        layers: names of the layers, "unet/…/attn2/to_k".
    """
    relative = energies / np.maximum(base, 1e-30)[:, None, :]
    types = [layer_type(layer) for layer in layers]
    chosen = {kind: np.array([t == kind for t in types]) for kind in sorted(set(types))}
    if len(chosen) != 1:
        chosen[ALL] = np.ones(len(layers), bool)
    return {kind: _ratios(relative[:, :, which].sum(-1)) for kind, which in chosen.items()}


def layer_type(layer: str) -> str:
    """The type of a layer: its component and its name within the block. Layers of one type differ only in depth.

    >>> layer_type("unet/down_blocks_0/attentions_1/transformer_blocks_0/attn2/to_k")
    'unet attn2/to_k'
    """
    component, _, path = layer.partition("/")
    return f"{component} {re.sub(_WHERE, '', path)}"


def _ratios(sums: Float[np.ndarray, "i j"]) -> Crosstalk:
    own = np.diagonal(sums)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(own > 0, np.sqrt(sums / own), np.inf)
    return Crosstalk(ratios[:, : len(sums)], ratios[:, -1])


def measure_crosstalk(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    templates: Sequence[str] | None = None,
    *,
    steps: int = 4,
    seed: int = 0,
    memory: float | None = None,
) -> dict[str, Crosstalk]:
    """Crosstalk of `adapters`. Each concept's prompts are drawn with only its own adapter active.

    templates: the prompts, with {} for the trigger. Default: eight prompts that fit the concept's kind.
    memory: GiB that may be used beside the weights, see `memory.default_memory`. With less, fewer prompts are drawn at
    once.

    The U-Net runs only if an adapter changes layers that read the picture: see `probe.Probe`.

    Raises: UserError for NaN or infinity in an adapter, and for a number of steps or a seed out of bounds.
    """
    check_number("steps", steps)
    check_number("seed", seed)
    check_finite(adapters)
    energies, base = [], []
    probe, pairs = crosstalk_probe(sd, adapters, steps, len(templates or _SUBJECT), memory)
    layers = sorted(probe.layers)
    for index, adapter in enumerate(adapters):
        prompts = [fill(template, adapter.info.trigger) for template in templates or TEMPLATES[adapter.info.kind]]
        ids = sd.tokenizer.encode(prompts, token_counts([adapter]))
        seen = probe(with_tokens(sd.params, own_tokens(sd, adapter)), adapter, ids, pairs, seed)
        table = np.stack([seen[layer] for layer in layers], axis=-1)
        count = len(adapters)
        energies.append(np.concatenate([table[:count], table[count : 2 * count][[index]]]))
        base.append(table[-1])
    return crosstalk(np.stack(energies), np.stack(base), layers)


def crosstalk_probe(
    sd: StableDiffusion, adapters: Sequence[Adapter], steps: int, prompts: int, memory: float | None
) -> tuple[Probe, dict[str, Any]]:
    """The probe of all adapted layers, and its context. prompts: their number for each concept."""
    layers = sorted({f"{c}/{path}" for adapter in adapters for c, group in adapter.lora.items() for path in group})

    def observe(layer: str, x: jax.Array, y: jax.Array, pairs: Mapping[str, Any]) -> jax.Array:
        return _energies(pairs[layer], len(adapters), x.astype(jnp.float32), y.astype(jnp.float32))

    at_once = rows_at_once(sd, prompts, memory, outputs=len(adapters))
    probe = Probe(sd, frozenset(layers), observe, steps, prompts, at_once)
    return probe, {layer: _pairs_of(layer, adapters) for layer in layers}


def _pairs_of(layer: str, adapters: Sequence[Adapter]) -> Mapping[int, tuple[Any, Any]]:
    component, _, path = layer.partition("/")
    pairs = {}
    for index, adapter in enumerate(adapters):
        if path in adapter.lora.get(component, {}):
            a, b = adapter.lora[component][path]
            pairs[index] = np.asarray(a, np.float32) * np.float32(adapter.info.scale), np.asarray(b, np.float32)
    return pairs


def _energies(pairs: Mapping[int, tuple[Any, Any]], count: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """[2 count + 1]: |dW_j x|^2 for each adapter j, then |sum_{j != i} dW_j x|^2 for each adapter i, then |y|^2."""
    outputs = {index: (x @ a) @ b for index, (a, b) in pairs.items()}
    total = sum(outputs.values(), jnp.zeros_like(y))
    alone = [jnp.sum(jnp.square(outputs[i])) if i in outputs else jnp.zeros(()) for i in range(count)]
    without = [jnp.sum(jnp.square(total - outputs[i] if i in outputs else total)) for i in range(count)]
    return jnp.stack([*alone, *without, jnp.sum(jnp.square(y))])
