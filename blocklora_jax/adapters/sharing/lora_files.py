"""Writes adapters as a LoRA file for PyTorch programs, with the files of their tokens beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.adapters.adapter_like import AdapterLike
from blocklora_jax.adapters.concept_tokens import ordered_tokens, token_counts
from blocklora_jax.adapters.scaled import scaled
from blocklora_jax.adapters.sharing.lora_tensors import lora_tensors
from blocklora_jax.adapters.sharing.model_card import embeddings_folder
from blocklora_jax.io.outputs import KIND_KEY
from blocklora_jax.io.tensor_file import DTYPES, save_tensors
from blocklora_jax.layouts.textual_inversion import a1111_tensors, embedding_path, embedding_tensors


def write_lora_files(
    path: Path,
    adapters: Sequence[AdapterLike],
    tensors: Mapping[str, np.ndarray],
    header: Mapping[str, Any],
    dtype: str,
) -> list[Path]:
    """Write the LoRA at `path`, and two files for each token: one for diffusers, and one for A1111 and ComfyUI.

    tensors: of the LoRA. header: JSON that all files state.
    """
    files = {path: tensors} | _token_files(path, adapters, DTYPES[dtype])
    for file, content in files.items():
        kind = "lora" if file == path else "tokens"
        save_tensors(file, content, {"format": "pt", "blocklora": json.dumps(header), KIND_KEY: kind})
    return list(files)


def write_alone(path: Path, adapter: AdapterLike, layout: str, family: str | None = None) -> tuple[str, list[Path]]:
    """Write one adapter, with weight 1 and in float32. Gives the family of its base and the paths written.

    The files equal those of `merge.export`. family: if the adapter does not state it.
    """
    family, tensors = tensors_alone(adapter, layout, family)
    more = {"left_out": sorted(adapter.vectors)} if adapter.vectors else {}
    header = lora_header([adapter], [1.0], layout, family, **more)
    return family, write_lora_files(path, [adapter], tensors, header, "float32")


def tensors_alone(adapter: AdapterLike, layout: str, family: str | None) -> tuple[str, dict[str, np.ndarray]]:
    """The family and the tensors that `write_alone` writes. Raises UserError for a family that is missing or wrong."""
    lowrank = {
        component: {
            layer: (scaled(f"{component}/{layer}", a, adapter.info.scale), np.asarray(b))
            for layer, (a, b) in layers.items()
        }
        for component, layers in adapter.lora.items()
    }
    return lora_tensors([adapter], lowrank, layout, DTYPES["float32"], family)


def lora_header(
    adapters: Sequence[AdapterLike], weights: Sequence[float], layout: str, family: str, **more: Any
) -> dict[str, Any]:
    """The JSON in the header of a LoRA file of ours."""
    return {
        "layout": layout,
        "adapters": [adapter.info.name for adapter in adapters],
        "weights": weights,
        "trigger": " and ".join(adapter.info.trigger for adapter in adapters if adapter.info.trigger),
        **_base(adapters),
        "base_family": family,
        "tokens": token_counts(adapters),
        **more,
    }


def _base(adapters: Sequence[AdapterLike]) -> dict[str, str]:
    """The base model's name and digest, from the first adapter that has a digest."""
    info = next(
        (adapter.info for adapter in adapters if adapter.info.base_digest), adapters[0].info if adapters else None
    )
    return {"base_name": info.base_name if info else "", "base_digest": info.base_digest if info else ""}


def _token_files(path: Path, adapters: Sequence[AdapterLike], dtype: np.dtype) -> dict[Path, dict[str, np.ndarray]]:
    """The tensors of each token's two files: one for diffusers, and one for A1111 and ComfyUI."""
    second = dict(ordered_tokens(adapters, "text_encoder_2"))
    files = {}
    for token, vectors in ordered_tokens(adapters):
        file = embedding_path(path, token)
        files[file] = embedding_tensors(token, vectors, dtype, second.get(token))
        other = embeddings_folder(path) / f"{token.strip('<>')}.safetensors"
        files[other] = a1111_tensors(vectors, dtype, second.get(token))
    return files
