"""Writing one adapter, or the merge of many, as files that PyTorch software reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from blocklora_jax.adapters.concept_tokens import ordered_tokens, token_counts
from blocklora_jax.adapters.lora import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic
from blocklora_jax.formats.peft import peft_tensors
from blocklora_jax.formats.textual_inversion import embedding_path, embedding_tensors
from merge.concatenate import concatenate

LAYOUTS = {"diffusers": peft_tensors}
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def export(
    adapters: Adapter | Sequence[Adapter],
    path: str | Path,
    layout: str = "diffusers",
    weights: Sequence[Any] | None = None,
    dtype: str = "float32",
    *,
    allow_overlap: bool = False,
) -> list[Path]:
    """Write `adapters` as one LoRA file at `path`, and each concept token beside it; gives the paths written.

    The LoRA has rank sum r and is exact; weights and scales are folded in. `merged.safetensors` is for
    `pipe.load_lora_weights`, `merged.<name>.safetensors` for `pipe.load_textual_inversion`.

    Raises UserError for an unknown layout or dtype, a path that is no `.safetensors`, and adapters that do not go together.
    """
    adapters, path = [adapters] if isinstance(adapters, Adapter) else list(adapters), Path(path)
    _check_options(path, layout, dtype)
    lowrank = concatenate(adapters, weights, allow_overlap=allow_overlap)
    header = {
        "layout": layout,
        "adapters": [adapter.name for adapter in adapters],
        "weights": [1.0] * len(adapters) if weights is None else [float(w) for w in weights],
        "base_name": adapters[0].info.base_name if adapters else "",
        "base_digest": adapters[0].info.base_digest if adapters else "",
        "tokens": token_counts(adapters),
    }
    family = adapters[0].info.base_family if adapters else "sd1"
    files = {path: LAYOUTS[layout](lowrank, DTYPES[dtype], family)}
    second = dict(ordered_tokens(adapters, "text_encoder_2"))
    for token, vectors in ordered_tokens(adapters):
        files[embedding_path(path, token)] = embedding_tensors(token, vectors, DTYPES[dtype], second.get(token))
    for file, tensors in files.items():
        write_atomic(file, save(tensors, metadata={"format": "pt", "blocklora": json.dumps(header)}))
    return list(files)


def _check_options(path: Path, layout: str, dtype: str) -> None:
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; this version writes {', '.join(LAYOUTS)}")
    if dtype not in DTYPES:
        raise UserError(f"cannot export as {dtype!r}; choose one of {', '.join(DTYPES)}")
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors, or PyTorch software will not read it as such")
