"""The recipes (how an adapter is trained) and methods (how a recipe's adapters are merged) that are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

import merge
from benchmarks.modular.pocket.words import training_words
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import basis_digest, load_text_basis
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.pipeline import MergedModel, StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.pocket.references import BASIS
from blocklora_jax.probing.conversion import convert
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.text_conversion import convert_to_slot

# Takes the settings that `Method.grid` names as keywords.
Merge = Callable[..., MergedModel]

# Rank 16 in a sixteenth of the inputs has as many parameters as rank 5 in all of them (see `trainable`).
RANK, PLAIN_RANK = 16, 5
# Blocks of the features, others in each layer: configs/feature_blocks.yaml, but for the number of blocks.
FEATURE_BLOCKS: dict[str, Any] = {
    "rank": RANK, "basis": None, "assignment": "layer", "token_side": 0.0, "token_side_margin": 2.5,
    "token_side_own": "rest", "token_start": "noun", "negatives_from": "nouns", "lambda": 1.0, "learning_rate": 4e-3,
}  # fmt: skip
ONE_BLOCK: dict[str, Any] = FEATURE_BLOCKS | {"rank": PLAIN_RANK, "blocks": 0}
PLAIN: dict[str, Any] = ONE_BLOCK | {"erase": "none"}
ORTHOGONAL: dict[str, Any] = PLAIN | {"rank": RANK, "down": "orthogonal"}
# Blocks of the directions of text, each the same for all layers. Chosen on other concepts: see search.py.
TEXT_BLOCKS: dict[str, Any] = FEATURE_BLOCKS | {
    "rank": 8, "blocks": 64, "basis": "pocket", "assignment": "text", "lambda": 5.0, "learning_rate": 1.2e-2,
}  # fmt: skip
# The defaults of train.concept.
TOKEN_SIDE: dict[str, Any] = TEXT_BLOCKS | {
    "token_side": 0.1, "token_side_margin": 3.9, "token_side_own": "token", "token_start": "codeword",
    "negatives_from": "codewords",
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "token": TOKEN_SIDE,
    "token_16": TOKEN_SIDE | {"rank": RANK, "blocks": 16, "token_side_margin": 3.0, "learning_rate": 8e-3},
    # Not searched: the margin and the rank were carried on from 16 and 64 blocks.
    "token_128": TOKEN_SIDE | {"rank": 4, "blocks": 128, "token_side_margin": 4.4},
    "text_64": TEXT_BLOCKS,
    "wide": ONE_BLOCK | {"lambda": 10.0},
    "wide_3": ONE_BLOCK | {"lambda": 3.0},
    # The negative tokens are noise around nouns and resemble no trained token.
    "wide_random": ONE_BLOCK | {"lambda": 10.0, "negative_tokens": []},
    "blocklora": FEATURE_BLOCKS | {"lambda": 10.0},
    "blocklora_1": FEATURE_BLOCKS,
    # Blocks of the directions in which ordinary text speaks, dealt in turn.
    "quiet": FEATURE_BLOCKS | {"basis": "pocket"},
    "blocks": FEATURE_BLOCKS | {"erase": "none"},
    "plain": PLAIN,
    "orthogonal": ORTHOGONAL,
    # 512 text features have rows for 32 concepts at rank 16, for 64 at rank 8, for 128 at rank 4.
    "orthogonal_8": ORTHOGONAL | {"rank": RANK // 2},
    "orthogonal_4": ORTHOGONAL | {"rank": RANK // 4},
    # Textual Inversion: the layers stay as they are, and nothing can collide.
    "tokens": PLAIN | {"learning_rate": 0.0},
    "preservation": ONE_BLOCK | {"erase": "preserve"},
    # What the papers of these methods adapt.
    "plain_attention": PLAIN | {"layers": "attention"},
    "orthogonal_attention": ORTHOGONAL | {"layers": "attention"},
}


@dataclass(frozen=True)
class Method:
    """label: for people. recipe: among `RECIPES`. merge: (model, adapters, settings) -> the model with the adapters.

    grid: values of the merge's settings among which a search starts (see `grid_search`). once: measured on the first
    seed only.
    """

    label: str
    recipe: str
    merge: Merge
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    once: bool = False


def _compose(sd: StableDiffusion, adapters: Sequence[Adapter]) -> MergedModel:
    return sd.with_adapters(adapters)


def _sum(sd: StableDiffusion, adapters: Sequence[Adapter], weight: float = 1.0) -> MergedModel:
    return sd.with_adapters(adapters, [weight] * len(adapters), allow_overlap=True)


def _by(name: str, **fixed: Any) -> Merge:
    """A method of `merge.METHODS`. fixed: settings that are not searched."""

    def merged(sd: StableDiffusion, adapters: Sequence[Adapter], weight: float = 1.0, **searched: float) -> MergedModel:
        method, weights = merge.METHODS[name], [weight] * len(adapters)
        found = {key: round(value) if key == "max_rank" else value for key, value in searched.items()}
        result = method.merge(sd, adapters, weights, method.settings(**fixed, **found))
        return sd.with_params(result.params, result.adapters, weights)

    return merged


def _fitted(sd: StableDiffusion, adapters: Sequence[Adapter], all_words: bool = True, **settings: Any) -> MergedModel:
    """all_words: whether the prompts of the fit may have the words of the measured prompts."""
    words = None if all_words else training_words()
    fitted = merge.fit_jointly(sd, adapters, words=words, **settings)
    return sd.with_adapters(fitted, allow_overlap=True)


_fitted_strong = partial(_fitted, keep_strength=True)


def _tuned(sd: StableDiffusion, adapters: Sequence[Adapter]) -> MergedModel:
    """The sum, with tokens that are tuned to it."""
    return sd.with_adapters(merge.tune_tokens(sd, adapters, words=training_words()).adapters)


def _text_fitted(
    sd: StableDiffusion, adapters: Sequence[Adapter], pictures: float = 0.0, rank: float | None = None
) -> MergedModel:
    """Layers that read text are fitted jointly. Those that read pictures are added.

    pictures: their strength. rank: of the sum of each of them; None: it is not reduced.
    """
    fitted = merge.fit_jointly(sd, [_with_layers(adapter, of_text=True) for adapter in adapters])
    own = [_with_layers(adapter, of_text=False) for adapter in adapters]
    # The tokens come with the fitted layers.
    others, weights = [replace(adapter, tokens={}) for adapter in own], [pictures] * len(own)
    params = merge.compose(sd.params, fitted, allow_overlap=True)
    if rank is not None:
        params = merge.svd(params, others, weights, max_rank=max(1, round(rank)), check_base=False)
    elif pictures:
        params = merge.compose(params, others, weights, allow_overlap=True, check_base=False)
    return sd.with_params(params, fitted)


def _with_layers(adapter: Adapter, *, of_text: bool) -> Adapter:
    """The adapter with those of its layers that read text, or with all others."""
    chosen = {
        part: {path: pair for path, pair in layers.items() if reads_text(f"{part}/{path}") == of_text}
        for part, layers in adapter.lora.items()
    }
    return replace(adapter, lora=chosen)


def _convert(blocks: int, erase_weight: float) -> Merge:
    def merged(sd: StableDiffusion, adapters: Sequence[Adapter]) -> MergedModel:
        count = max(blocks, len(adapters)) if blocks > 1 else 1
        partition, config = Partition(num_blocks=count), ConversionConfig(rank=RANK, erase_weight=erase_weight)
        slots = [(slot if count > 1 else 0,) for slot in range(len(adapters))]
        converted = [
            convert(sd, adapter, partition, own, words_for(sd.checkpoint.name), config)[0]
            for adapter, own in zip(adapters, slots, strict=True)
        ]
        return sd.with_adapters(converted, allow_overlap=count == 1)

    return merged


def _convert_to_text(blocks: int, *, fitted: bool = False) -> Merge:
    """Every LoRA in a slot of the packaged basis, with a token trained for it. fitted: jointly, afterwards."""

    def merged(sd: StableDiffusion, adapters: Sequence[Adapter]) -> MergedModel:
        basis = load_text_basis(BASIS, params_digest(sd.params))
        count = min(known for known in basis.codewords if known >= max(blocks, len(adapters)))
        partition = Partition(num_blocks=count, basis=basis_digest(basis.directions), assignment="text")
        words = training_words()
        converted = [
            convert_to_slot(sd, adapter, partition, (slot,), basis, words)[0] for slot, adapter in enumerate(adapters)
        ]
        if fitted:
            converted = merge.fit_jointly(sd, converted, words=words)
        return sd.with_adapters(converted, allow_overlap=fitted)

    return merged


_STRENGTH = {"weight": (0.3, 0.6, 1.0)}
_SPARSE = {"weight": (0.3, 0.6, 1.0), "density": (0.2, 0.5, 0.8)}
METHODS: dict[str, Method] = {
    "token": Method("token side, 64 blocks", "token", _compose),
    "token_fit": Method("token side, 64 blocks, fitted", "token", _fitted),
    "token_tuned": Method("token side, 64 blocks, tuned tokens", "token", _tuned),
    "token_fit_strong": Method("token side, 64 blocks, fitted at full strength", "token", _fitted_strong),
    "token_fit_unseen": Method(
        "token side, 64 blocks, fitted at full strength without the measured words",
        "token",
        partial(_fitted_strong, all_words=False),
    ),
    "token_16": Method("token side, 16 blocks", "token_16", _compose),
    "token_16_fit": Method("token side, 16 blocks, fitted", "token_16", _fitted),
    "token_128": Method("token side, 128 blocks", "token_128", _compose),
    "token_128_fit": Method("token side, 128 blocks, fitted", "token_128", _fitted),
    "token_128_tuned": Method("token side, 128 blocks, tuned tokens", "token_128", _tuned),
    "token_128_fit_strong": Method("token side, 128 blocks, fitted at full strength", "token_128", _fitted_strong),
    "text_64": Method("64 blocks of text directions, no token side", "text_64", _compose),
    "wide": Method("erasure, one block", "wide", _sum),
    "wide_fused": Method("erasure, one block, fitted", "wide", _fitted),
    "wide_3": Method("erasure, one block, lambda 3", "wide_3", _sum),
    "wide_3_fused": Method("erasure, one block, lambda 3, fitted", "wide_3", _fitted),
    "wide_3_attended": Method(
        "erasure, one block, lambda 3, fitted by attention", "wide_3", partial(_fitted, attention=True)
    ),
    "wide_random": Method("erasure, one block, random negative tokens", "wide_random", _sum),
    "blocklora": Method("erasure, 16 blocks", "blocklora", _compose),
    "blocklora_1": Method("erasure, 16 blocks, lambda 1", "blocklora_1", _compose),
    "quiet": Method("erasure, 16 blocks in text's basis", "quiet", _compose),
    "blocks": Method("16 blocks, no erasure", "blocks", _compose),
    "sum": Method("LoRA, summed", "plain", _sum, _STRENGTH),
    "plain_fused": Method("LoRA, fitted", "plain", _fitted),
    "fusion": Method("LoRA, gradient fusion", "plain", _by("gradient_fusion")),
    "average": Method("LoRA, averaged", "plain", _by("average"), once=True),
    "ties": Method("TIES", "plain", _by("ties"), _SPARSE, once=True),
    "dare": Method("DARE", "plain", _by("dare"), _SPARSE, once=True),
    "dare_ties": Method("DARE with TIES", "plain", _by("dare_ties"), _SPARSE, once=True),
    "magnitude": Method("magnitude pruning", "plain", _by("magnitude"), _SPARSE, once=True),
    "svd": Method("SVD of the sum", "plain", _by("svd"), _STRENGTH | {"max_rank": (5, 15, 45)}, once=True),
    "knots": Method("KnOTS with TIES", "plain", _by("knots"), _SPARSE, once=True),
    "ssr": Method("SSR-Merge's router", "plain", _by("ssr"), once=True),
    "orthogonal": Method("Orthogonal Adaptation", "orthogonal", _sum, _STRENGTH),
    "orthogonal_8": Method("Orthogonal Adaptation, rank 8", "orthogonal_8", _sum, _STRENGTH),
    "orthogonal_4": Method("Orthogonal Adaptation, rank 4", "orthogonal_4", _sum, _STRENGTH),
    "preservation": Method("Output Preservation", "preservation", _sum, _STRENGTH, once=True),
    "sum_attention": Method("LoRA, all attention layers, summed", "plain_attention", _sum, _STRENGTH, once=True),
    "fit_attention": Method("LoRA, all attention layers, fitted", "plain_attention", _fitted, once=True),
    "text_fit_attention": Method(
        "LoRA, all attention layers, those of text fitted, others dropped", "plain_attention", _text_fitted, once=True
    ),
    "text_fit_attention_shrunk": Method(
        "LoRA, all attention layers, those of text fitted, others shrunk",
        "plain_attention",
        _text_fitted,
        {"pictures": (0.1, 0.2, 0.4)},
        once=True,
    ),
    "text_fit_attention_rank": Method(
        "LoRA, all attention layers, those of text fitted, others shrunk to a low rank",
        "plain_attention",
        _text_fitted,
        {"pictures": (0.1, 0.2, 0.4), "rank": (2, 5, 15)},
        once=True,
    ),
    "fusion_attention": Method(
        "LoRA, all attention layers, gradient fusion", "plain_attention", _by("gradient_fusion"), once=True
    ),
    "ssr_attention": Method("SSR-Merge's router, all attention layers", "plain_attention", _by("ssr"), once=True),
    "ties_attention": Method("TIES, all attention layers", "plain_attention", _by("ties"), _SPARSE, once=True),
    "knots_attention": Method(
        "KnOTS with TIES, all attention layers", "plain_attention", _by("knots"), _SPARSE, once=True
    ),
    "orthogonal_attention": Method(
        "Orthogonal Adaptation, all attention layers", "orthogonal_attention", _sum, _STRENGTH, once=True
    ),
    "tokens": Method("tokens alone", "tokens", _sum),
    "refit": Method("LoRA, converted to 16 blocks", "plain", _convert(16, 1.0)),
    "refit_wide": Method("LoRA, converted to one block", "plain", _convert(1, 10.0)),
    "convert": Method("LoRA, converted to slots of text with tokens", "plain", _convert_to_text(16)),
    "convert_64": Method("LoRA, converted to 64 slots of text with tokens", "plain", _convert_to_text(64)),
    "convert_fit": Method("LoRA, converted, fitted", "plain", _convert_to_text(16, fitted=True)),
    "convert_attention": Method(
        "LoRA, all attention layers, converted", "plain_attention", _convert_to_text(16), once=True
    ),
}


def check_known(flag: str, names: Sequence[str], known: Collection[str]) -> None:
    """Raises: UserError for the first name that is not known."""
    for name in names:
        if name not in known:
            raise UserError(f"{flag} {name!r} is not known: choose among {'; '.join(known)}")


def trainable(adapter: Adapter) -> int:
    """How many numbers of the adapter were trained, tokens included."""
    training, tokens = json.loads(adapter.info.training or "{}"), sum(v.size for v in adapter.tokens.values())
    if training.get("learning_rate") == 0:
        return tokens
    layers = [(f"{part}/{path}", pair) for part, group in adapter.lora.items() for path, pair in group.items()]
    down = 0 if training.get("down") == "orthogonal" else sum(_down_numbers(adapter, *layer) for layer in layers)
    return tokens + down + sum(int(np.count_nonzero(pair.lora_B)) for _, pair in layers)


def _down_numbers(adapter: Adapter, path: str, pair: LoRAPair) -> int:
    """Of one down projection; in a basis, a row for each direction that the adapter owns."""
    (n, rank), partition = pair.lora_A.shape, adapter.info.partition
    if partition is not None and partition.basis:
        return rank * len(partition.directions(path, n, adapter.info.slots))
    return int(np.count_nonzero(pair.lora_A))
