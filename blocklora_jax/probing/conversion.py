"""Conversion: an ordinary LoRA as one that owns blocks, without its pictures, in closed form.

An external LoRA F changes whole layers, and disturbs others that it is merged with. D has the same output on prompts
that call its concept, little output on others (ROE), and lies within the owned blocks, so that it merges losslessly:

    D = argmin  mean_t |x_t (D - F)|^2 + lambda mean_e |x_e D|^2 + ridge |D|^2,   rank D <= r

x_t are the layer's inputs while the model with F draws prompts with its trigger; x_e are its inputs while the base
model draws random prompts. Each layer is linear in its inputs, so this is reduced-rank ridge regression, without
gradient steps.

Source: method, "Randomized Output Erasure"; reduced-rank regression: Izenman 1975.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from blocklora_jax.checks.bounds import check_number
from blocklora_jax.checks.renamed import old_names
from blocklora_jax.diffusion.text import ids_of
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.crosstalk import layer_type
from blocklora_jax.probing.probe import Probe, own_tokens, with_tokens
from blocklora_jax.prompts.random_prompts import PromptWords, RandomPrompts, article, make_random_prompts
from blocklora_jax.prompts.shares import RandomPromptShares
from blocklora_jax.prompts.tokenizer import token_pattern

_BEFORE_SCENES = ("in", "in a", "on a")


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """Settings of a conversion.

    rank: of the result. erase_weight: lambda. ridge: as a share of the inputs' mean square, at least 1e-6.
    prompts: how many with the trigger; random_prompts: how many without.
    steps: of the sampling runs in which the layers that read pictures are observed.
    token_spread: how far negative tokens in random prompts are from the class noun, in standard deviations of the token
        table.
    """

    rank: int = 16
    erase_weight: float = 1.0
    ridge: float = 1e-4
    prompts: int = 64
    random_prompts: int = 256
    steps: int = 4
    chunk: int = 16
    token_spread: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "prompts", "random_prompts", "steps", "chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("erase_weight", "ridge", "token_spread"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0")
        for name, value in vars(self).items():
            check_number(name, value)


class Fit(NamedTuple):
    """How well one type of layer was converted; root mean squares, as shares.

    error: |x_t (D - F)| / |x_t F|. leak: |x_e D| / |x_t D|, the output on random prompts by that on its own prompts;
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
    """The factors A, B of the best change A @ B of rank r of one layer's block, in fp64.

    Args:
        own: mean of x_t^T x_t over the owned inputs. wanted: mean of x_t^T (x_t F). random: mean of x_e^T x_e.
        rank: columns beyond what the block can use are zero.
    """
    metric = own + erase_weight * random
    # Sums of fp32 products are no better than that; below it the metric might not be positive.
    scale = max(ridge, 1e-6) * np.trace(metric) / len(metric)
    root = np.linalg.cholesky(metric + max(scale, 1e-30) * np.eye(len(metric)))
    # |root^T (D - D_full)| is the loss beyond its least, so the best D of rank r is a truncated SVD there.
    u, s, v = np.linalg.svd(np.linalg.solve(root, wanted), full_matrices=False)
    kept = min(rank, len(s))
    share = np.sqrt(s[:kept])
    a, b = np.zeros((len(metric), rank)), np.zeros((rank, wanted.shape[1]))
    # A balanced product, as training leaves them.
    a[:, :kept], b[:kept] = np.linalg.solve(root.T, u[:, :kept] * share), share[:, None] * v[:kept]
    return a, b


def convert(
    sd: StableDiffusion,
    adapter: Adapter,
    partition: Partition,
    slots: Sequence[int],
    words: PromptWords,
    config: ConversionConfig = ConversionConfig(),
) -> tuple[Adapter, dict[str, Fit]]:
    """`adapter`, trained on `sd` without blocks, as one that owns `slots`; and how well that went, by type of layer.

    Its trigger must call the concept and nothing else. Tokens are kept as they are.

    Raises: UserError for a trigger that random prompts have too, layers that the model lacks, slots that are none,
        NaN or infinity in the adapter.
    """
    check_finite([adapter])
    info = replace(
        adapter.info, partition=partition, slots=partition.check_slots(tuple(slots)), rank=config.rank,
        alpha=float(config.rank), base_family=sd.checkpoint.family,
        training=json.dumps({"refit": config.__dict__, "of": json.loads(adapter.info.training)}),
    )  # fmt: skip
    check_trigger(adapter, words)
    _check_linear(sd.params, adapter)
    layers = frozenset(f"{c}/{path}" for c, group in adapter.lora.items() for path in group)
    context = {layer: _context(adapter, info, layer) for layer in layers}
    probe = Probe(sd, layers, _observe, config.steps, config.chunk)
    ids = sd.tokenizer.encode(trigger_prompts(adapter, words, config), token_counts([adapter]))
    own = probe(with_tokens(sd.params, own_tokens(sd, adapter)), adapter, ids, context, config.seed)
    strange, longer = random_ids(sd, adapter, words, config, config.random_prompts)
    random = probe(longer, None, strange, context, config.seed + 1)
    lora: dict[str, dict[str, LoRAPair]] = {component: {} for component in adapter.lora}
    energies: dict[str, np.ndarray] = {}
    for layer in sorted(layers):
        component, _, path = layer.partition("/")
        lora[component][path], energy = _fit_layer(adapter, info, layer, own[layer], random[layer], config)
        energies[layer_type(layer)] = energies.get(layer_type(layer), 0) + energy
    return replace(adapter, lora=lora, info=info), {kind: _report(*energy) for kind, energy in energies.items()}


def trigger_prompts(adapter: Adapter, words: PromptWords, config: ConversionConfig) -> list[str]:
    """Prompts that call the concept in the place of its kind.

    A person or thing is the subject, in every style and scene. A scene is the place of other subjects. A style is how
    other subjects are shown. A fifth of the prompts have a second subject.
    """
    rng = np.random.default_rng((config.seed, 0x7216))
    return [_trigger_prompt(adapter.info, words, rng) for _ in range(config.prompts)]


def _trigger_prompt(info: AdapterInfo, words: PromptWords, rng: np.random.Generator) -> str:
    style, other, scene = (str(rng.choice(options)) for options in (words.styles, words.subjects, words.scenes))
    company, placed, subject = rng.random() < 0.2, rng.random() < 0.8, info.trigger
    if info.kind in ("scene", "style"):
        subject, other = f"{article(other)} {other}", str(rng.choice(words.subjects))
    if info.kind == "scene":
        scene = f"{rng.choice(_BEFORE_SCENES)} {info.trigger}"
    elif info.kind == "style":
        style = f"a {info.trigger} of"
    if company:
        subject = f"{subject} and {article(other)} {other}"
    if not placed:
        # What is called stays.
        return f"{style} a {info.trigger}" if info.kind == "scene" else f"{style} {subject}"
    return f"{style} {subject} {scene}"


def _check_linear(params: Mapping[str, Any], adapter: Adapter) -> None:
    shapes, wrong = {path: np.shape(leaf) for path, leaf in flatten_params(params).items()}, []
    for component, layers in adapter.shapes().items():
        for path, (n, m) in layers.items():
            if shapes.get(f"{component}/{path}/kernel") not in ((n, m), (1, 1, n, m)):
                wrong.append(f"{component}/{path}")
    if wrong:
        raise UserError(
            f"{len(wrong)} layers of {adapter.name!r} are no linear layers of this model ({wrong[0]}, …): only linear"
            " layers and 1x1 convolutions can be converted; is it another base model?"
        )


def check_trigger(adapter: Adapter, words: PromptWords) -> None:
    """Raises: UserError if nothing, or nothing but a word of random prompts, calls the adapter's concept."""
    trigger = adapter.info.trigger.strip()
    if not trigger or trigger in (adapter.info.class_noun, *words.subjects):
        raise UserError(
            f"{adapter.name!r} is called by {trigger!r}, which random prompts have too: name the words that call it and"
            " nothing else, with --trigger"
        )
    if missing := [token for token in adapter.tokens if not re.search(token_pattern([token]), trigger)]:
        raise UserError(f"the trigger {trigger!r} lacks the adapter's token {missing[0]}")


def random_ids(
    sd: StableDiffusion, adapter: Adapter, words: PromptWords, config: ConversionConfig, count: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Ids of `count` random prompts, some with a negative token, and params with the embeddings of these tokens."""
    vectors = sum(token_counts([adapter]).values()) or 2
    pool = make_random_prompts(
        sd.tokenizer, words, RandomPromptShares(), adapter.info.class_noun, ("<own>", vectors), config.seed, count
    )  # fmt: skip
    rng, rows, ids = np.random.default_rng((config.seed, 0xF0E)), {}, []
    for component in sd.models.text_encoders:
        table = np.asarray(token_table(sd.params, component))
        rows[component] = [_negative_tokens(rng, table, pool, vectors, config.token_spread)]
        # The pool also has ids for an own token, which no prompt uses. The negative tokens' rows begin there.
        first, each = len(table) + vectors, ids_of(pool.ids, component)
        ids.append(np.where(each >= first, each - vectors + vectors * np.arange(len(each))[:, None], each))
    return np.stack(ids, axis=1).reshape(pool.ids.shape), with_tokens(sd.params, rows)


def _negative_tokens(rng: Any, table: np.ndarray, pool: RandomPrompts, vectors: int, spread: float) -> np.ndarray:
    noise = rng.standard_normal((len(pool.nouns), vectors, table.shape[1]), np.float32)
    return (table[pool.nouns][:, None] + spread * table.std() * noise).reshape(-1, table.shape[1])


def _context(adapter: Adapter, info: AdapterInfo, layer: str) -> dict[str, np.ndarray]:
    component, _, path = layer.partition("/")
    a, b = (np.asarray(x, np.float32) for x in adapter.lora[component][path])
    rows, columns = info.support(component, path, (len(a), b.shape[1]))
    return {"a": a * np.float32(adapter.info.scale), "b": b, "rows": rows, "columns": columns}


def _observe(layer: str, x: jax.Array, y: jax.Array, context: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Moments of the owned inputs x_S: x_S^T x_S, x_S^T (x F) on the owned outputs, |x F|^2, and the number of rows."""
    own = context[layer]
    x = x.astype(jnp.float32)
    product = jax.lax.Precision.HIGHEST
    target = jnp.matmul(jnp.matmul(x, own["a"], precision=product), own["b"], precision=product)
    mine = x[:, own["rows"]]
    return {
        "gram": jnp.matmul(mine.T, mine, precision=product),
        "cross": jnp.matmul(mine.T, target[:, own["columns"]], precision=product),
        "energy": jnp.sum(jnp.square(target)),
        "base": jnp.sum(jnp.square(y.astype(jnp.float32))),
        "rows": jnp.float32(len(x)),
    }


def _fit_layer(
    adapter: Adapter,
    info: AdapterInfo,
    layer: str,
    own: Mapping[str, Any],
    random: Mapping[str, Any],
    config: ConversionConfig,
) -> tuple[LoRAPair, np.ndarray]:
    """The layer's pair, and mean energies in units of the base's output.

    The energies are [error, own, own before, random, random before].
    """
    gram, cross, strange = own["gram"] / own["rows"], own["cross"] / own["rows"], random["gram"] / random["rows"]
    a, b = fit_block(gram, cross, strange, config.rank, config.erase_weight, config.ridge)
    component, _, path = layer.partition("/")
    n, m = adapter.shapes()[component][path]
    rows, columns = info.support(component, path, (n, m))
    pair = LoRAPair(np.zeros((n, config.rank), np.float32), np.zeros((config.rank, m), np.float32))
    pair.lora_A[rows], pair.lora_B[:, columns] = a, b
    change = a @ b
    before, mine = own["energy"] / own["rows"], np.sum(change * (gram @ change))
    error = before - 2 * np.sum(change * cross) + mine
    energies = np.array([error, mine, before]) / (own["base"] / own["rows"])
    others = np.array([np.sum(change * (strange @ change)), random["energy"] / random["rows"]])
    return pair, np.r_[energies, others / (random["base"] / random["rows"])]


def _report(error: float, own: float, before: float, random: float, random_before: float) -> Fit:
    def share(part: float, whole: float) -> float:
        return float(np.sqrt(max(part, 0) / whole)) if whole > 0 else 0.0

    return Fit(share(error, before), share(random, own), share(random_before, before))


__getattr__ = old_names(__name__, {"refit": "convert", "RefitConfig": "ConversionConfig"})
