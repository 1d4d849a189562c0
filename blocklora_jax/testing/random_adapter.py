"""Random adapters for a model, of the same form as trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.layouts.families.table import family_of_build
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.prompts.concept_token import concept_token

FOUR_BLOCKS = Partition(num_blocks=4)


def random_adapter(
    name: str,
    params: Mapping[str, Any],
    *,
    slots: tuple[int, ...],
    layers: str = "attention+text_encoder",
    partition: Partition | None = FOUR_BLOCKS,
    rank: int = 2,
    vectors: int = 2,
    size: float = 0.5,
) -> Adapter:
    """An adapter `name` for `params`. Its entries have about the size `size`, and are zero outside its blocks."""
    rng = np.random.default_rng(sum(name.encode()))
    info = AdapterInfo(
        name=name, class_noun="man", trigger=f"{concept_token(name)} man", rank=rank, alpha=3.0, base_name="small",
        base_digest=params_digest(params), base_family=family_of(params), partition=partition,
        slots=slots if partition else (),
    )  # fmt: skip
    lora: dict = {}
    for component, shapes in select_kernels(params, layers).items():
        lora[component] = {layer: _pair(rng, info, component, layer, shape, size) for layer, shape in shapes.items()}
    tokens: dict = {"tokens": {}, "tokens_2": {}}
    for component, field in zip(("text_encoder", "text_encoder_2"), tokens, strict=True):
        if component in params and vectors:
            width = params[component]["text_model"]["embeddings"]["token_embedding"]["embedding"].shape[1]
            tokens[field] = {concept_token(name): rng.standard_normal((vectors, width), np.float32)}
    return Adapter(lora=lora, **tokens, info=info)


def family_of(params: Mapping[str, Any]) -> str:
    """The family of the model that has `params`."""
    attention = next(value for value in params["unet"]["mid_block"].values() if "proj_in" in value)
    width = attention["transformer_blocks_0"]["attn2"]["to_k"]["kernel"].shape[0]
    return family_of_build("text_encoder_2" in params, attention["proj_in"]["kernel"].ndim == 4, width)


def _pair(rng, info: AdapterInfo, component: str, layer: str, shape: tuple[int, int], size: float) -> LoRAPair:
    rows, columns = info.support(component, layer, shape)
    a, b = np.zeros((shape[0], info.rank), np.float32), np.zeros((info.rank, shape[1]), np.float32)
    a[rows] = size * rng.standard_normal((len(rows), info.rank))
    b[:, columns] = size * rng.standard_normal((info.rank, len(columns)))
    return LoRAPair(a, b)
