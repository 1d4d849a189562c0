"""Converts an ordinary LoRA into one that is zero outside its blocks, in closed form and without training pictures.

An external LoRA F changes whole layers, and disturbs other LoRAs that it is merged with. The converted LoRA D has the
same output on prompts that call the concept, and little output on other prompts (ROE). It is zero outside its blocks,
so that it merges losslessly:

    D = argmin  mean_t |x_t (D - F)|^2 + lambda mean_e |x_e D|^2 + ridge |D|^2,   rank D <= r

x_t are the layer's inputs while the model with F draws prompts with its trigger; x_e are its inputs while the base
model draws random prompts. Each layer is linear in its inputs, so this is reduced-rank ridge regression, without
gradient steps.

Source: Randomized Output Erasure of BlockLoRA (arXiv 2503.08575); reduced-rank regression: Izenman 1975.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.finite import check_finite
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checks.renamed import old_names
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.crosstalk import layer_type
from blocklora_jax.probing.fit_prompts import random_ids, trigger_prompts
from blocklora_jax.probing.memory import layer_groups, rows_at_once
from blocklora_jax.probing.probe import Probe, own_tokens, with_tokens
from blocklora_jax.probing.triggers import check_trigger
from blocklora_jax.prompts.random_prompts import PromptWords

_DEFAULTS = ConversionConfig()


class Fit(NamedTuple):
    """How well one type of layer was converted, as ratios of root mean squares.

    error: |x_t (D - F)| / |x_t F|.
    leak: |x_e D| / |x_t D|, the output on random prompts divided by the output on prompts with the trigger.
    leak_before: the same for F.
    """

    error: float
    leak: float
    leak_before: float

    def __repr__(self) -> str:
        return f"Fit(error {self.error:.3g}, leak {self.leak:.3g}, before {self.leak_before:.3g})"


def fit_block(
    own: Float[np.ndarray, "s s"],
    wanted: Float[np.ndarray, "s c"],
    random: Float[np.ndarray, "s s"],
    rank: int,
    erase_weight: float = 1.0,
    ridge: float = 1e-4,
) -> tuple[Float[np.ndarray, "s r"], Float[np.ndarray, "r c"]]:
    """The factors A, B of the best change A @ B of rank r within one layer's block, in fp64.

    Args:
        own: mean of x_t^T x_t over the inputs in the block.
        wanted: mean of x_t^T (x_t F).
        random: mean of x_e^T x_e.
        rank: number of columns of A. Columns that the block cannot use are zero.
    """
    metric = own + erase_weight * random
    # Sums of fp32 products are not more exact than 1e-6; with less ridge the metric might not be positive definite.
    scale = max(ridge, 1e-6) * np.trace(metric) / len(metric)
    root = np.linalg.cholesky(metric + max(scale, 1e-30) * np.eye(len(metric)))
    # |root^T (D - D_full)|^2 is the loss above its minimum, so a truncated SVD of root^T D_full gives the best D.
    u, s, v = np.linalg.svd(np.linalg.solve(root, wanted), full_matrices=False)
    kept = min(rank, len(s))
    share = np.sqrt(s[:kept])
    a, b = np.zeros((len(metric), rank)), np.zeros((rank, wanted.shape[1]))
    # Singular values are split evenly between A and B, as training does approximately.
    a[:, :kept], b[:kept] = np.linalg.solve(root.T, u[:, :kept] * share), share[:, None] * v[:kept]
    return a, b


def convert(
    sd: StableDiffusion,
    adapter: Adapter,
    partition: Partition,
    slots: Sequence[int],
    words: PromptWords,
    config: ConversionConfig = _DEFAULTS,
    *,
    memory: float | None = None,
) -> tuple[Adapter, dict[str, Fit]]:
    """Converts `adapter`, trained on `sd` without blocks, into one in `slots`. Also gives a `Fit` by type of layer.

    The adapter's trigger must call the concept and nothing else. Tokens are kept unchanged.

    memory: GiB that may be used beside the weights, see `memory.default_memory`. With less, fewer prompts and layers
    are observed at once, which takes longer and gives the same within rounding.

    Raises: UserError for a trigger that also occurs in random prompts, layers that the model does not have, slots that
        do not exist, and NaN or infinity in the adapter.
    """
    check_finite([adapter])
    info = replace(
        adapter.info, partition=partition, slots=partition.check_slots(tuple(slots)), rank=config.rank,
        alpha=float(config.rank), base_family=sd.checkpoint.family,
        training=json.dumps({"refit": config.__dict__, "of": json.loads(adapter.info.training)}),
    )  # fmt: skip
    check_trigger(adapter, words)
    check_linear(sd.params, adapter)
    own = sd.tokenizer.encode(trigger_prompts(adapter, words, config), token_counts([adapter]))
    lora: dict[str, dict[str, LoRAPair]] = {component: {} for component in adapter.lora}
    energies: dict[str, np.ndarray] = {}
    for probe, context in group_probes(sd, adapter, info, config, memory):
        on_trigger = probe(with_tokens(sd.params, own_tokens(sd, adapter)), adapter, own, context, config.seed)
        random, params = random_ids(sd, adapter, words, config, config.random_prompts)
        on_random = probe(params, adapter, random, context, config.seed + 1, weight=0.0)
        for layer in sorted(probe.layers):
            component, _, path = layer.partition("/")
            sums = on_trigger.pop(layer), on_random.pop(layer)
            lora[component][path], energy = _fit_layer(adapter, info, layer, *sums, config)
            energies[layer_type(layer)] = energies.get(layer_type(layer), 0) + energy
    # Blocks hold no norms and biases.
    fitted = replace(adapter, lora=lora, vectors={}, info=info)
    return fitted, {kind: fit_of_energies(*energy) for kind, energy in energies.items()}


def check_linear(params: Mapping[str, Any], adapter: Adapter) -> None:
    """Raises: UserError if the adapter has layers that are not linear layers of the model."""
    shapes, wrong = {path: np.shape(leaf) for path, leaf in flatten_params(params).items()}, []
    for component, layers in adapter.shapes().items():
        for path, (n, m) in layers.items():
            if shapes.get(f"{component}/{path}/kernel") not in ((n, m), (1, 1, n, m)):
                wrong.append(f"{component}/{path}")
    if wrong:
        raise UserError(
            f"{len(wrong)} layers of {adapter.name!r} are not linear layers of this model ({wrong[0]}, …). Only linear"
            " layers and 1x1 convolutions can be converted. Is the adapter for another base model?"
        )


def group_probes(
    sd: StableDiffusion, adapter: Adapter, info: AdapterInfo, config: ConversionConfig, memory: float | None
) -> Iterator[tuple[Probe, dict[str, dict[str, Any]]]]:
    """Probes of as many layers as the memory has room for, each with its context. info: of the result."""
    at_once = rows_at_once(sd, config.chunk, memory, outputs=1)
    for group in layer_groups(_observed_bytes(adapter, info), memory):
        context = jax.device_put({layer: _context(adapter, info, layer) for layer in group})
        yield Probe(sd, frozenset(group), _observe, config.steps, config.chunk, at_once), context


def _observed_bytes(adapter: Adapter, info: AdapterInfo) -> dict[str, int]:
    """Bytes on the device for what `_observe` gives and needs in each layer."""
    sizes = {}
    for component, layers in adapter.shapes().items():
        for path, (n, m) in layers.items():
            rows, columns = (len(part) for part in info.support(component, path, (n, m)))
            rank = adapter.lora[component][path].lora_A.shape[-1]
            sizes[f"{component}/{path}"] = 4 * (rows * (rows + columns) + (n + m) * rank)
    return dict(sorted(sizes.items()))


def _context(adapter: Adapter, info: AdapterInfo, layer: str) -> dict[str, np.ndarray]:
    component, _, path = layer.partition("/")
    a, b = (np.asarray(x, np.float32) for x in adapter.lora[component][path])
    rows, columns = info.support(component, path, (len(a), b.shape[1]))
    return {"a": a * np.float32(adapter.info.scale), "b": b, "rows": rows, "columns": columns}


def _observe(layer: str, x: jax.Array, y: jax.Array, context: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Moments of the inputs x_S in the block, and the number of rows.

    gram: x_S^T x_S. cross: x_S^T (x F) on the outputs in the block. energy: |x F|^2. base: |y|^2.
    """
    lora = context[layer]
    x = x.astype(jnp.float32)
    product = jax.lax.Precision.HIGHEST
    target = jnp.matmul(jnp.matmul(x, lora["a"], precision=product), lora["b"], precision=product)
    block = x[:, lora["rows"]]
    return {
        "gram": jnp.matmul(block.T, block, precision=product),
        "cross": jnp.matmul(block.T, target[:, lora["columns"]], precision=product),
        "energy": jnp.sum(jnp.square(target)),
        "base": jnp.sum(jnp.square(y.astype(jnp.float32))),
        "rows": jnp.float32(len(x)),
    }


def _fit_layer(
    adapter: Adapter,
    info: AdapterInfo,
    layer: str,
    on_trigger: Mapping[str, Any],
    on_random: Mapping[str, Any],
    config: ConversionConfig,
) -> tuple[LoRAPair, np.ndarray]:
    """The layer's pair, and mean energies in units of the base's output.

    on_trigger, on_random: sums of `_observe` on prompts with the trigger and on random prompts.

    The energies are the arguments of `fit_of_energies`: the fit error; the outputs of D and F on prompts with the
    trigger; the outputs of D and F on random prompts.
    """
    gram, cross = on_trigger["gram"] / on_trigger["rows"], on_trigger["cross"] / on_trigger["rows"]
    random_gram = on_random["gram"] / on_random["rows"]
    a, b = fit_block(gram, cross, random_gram, config.rank, config.erase_weight, config.ridge)
    component, _, path = layer.partition("/")
    n, m = adapter.shapes()[component][path]
    rows, columns = info.support(component, path, (n, m))
    pair = LoRAPair(np.zeros((n, config.rank), np.float32), np.zeros((config.rank, m), np.float32))
    pair.lora_A[rows], pair.lora_B[:, columns] = a, b
    change = a @ b
    before, after = on_trigger["energy"] / on_trigger["rows"], np.sum(change * (gram @ change))
    error = before - 2 * np.sum(change * cross) + after
    energies = np.array([error, after, before]) / (on_trigger["base"] / on_trigger["rows"])
    random_energies = np.array([np.sum(change * (random_gram @ change)), on_random["energy"] / on_random["rows"]])
    return pair, np.r_[energies, random_energies / (on_random["base"] / on_random["rows"])]


def fit_of_energies(error: float, after: float, before: float, random_after: float, random_before: float) -> Fit:
    """A `Fit` from mean squares: of D - F, D and F on prompts with the trigger, and of D and F on random prompts."""

    def share(part: float, whole: float) -> float:
        return float(np.sqrt(max(part, 0) / whole)) if whole > 0 else 0.0

    return Fit(share(error, before), share(random_after, after), share(random_before, before))


__getattr__ = old_names(__name__, {"refit": "convert", "RefitConfig": "ConversionConfig"})
