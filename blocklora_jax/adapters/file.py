"""The adapter file: safetensors that hold only the owned blocks, with a JSON header that describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.checks.finite import narrow
from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.base_weights import BaseModel
from blocklora_jax.external_lora.read import ExternalLoRA, read_external_lora
from blocklora_jax.io.dtype_names import AdapterDtype
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import KIND_KEY
from blocklora_jax.io.tensor_file import DTYPES, TensorFile, open_tensors, save_tensors
from blocklora_jax.layouts.low_rank import LoRAPair, LoRATree, kernel_shapes

FORMAT_VERSION = 1
_HEADER = "blocklora"
_TOKENS = ("tokens", "tokens_2")
_DTYPES = {name: DTYPES[name] for name in get_args(AdapterDtype)}


class AdapterContents(NamedTuple):
    """The fields of an `Adapter`."""

    lora: LoRATree
    tokens: Mapping[str, Any]
    tokens_2: Mapping[str, Any]
    vectors: Mapping[str, Any]
    info: AdapterInfo


def write_adapter(adapter: AdapterContents, path: str | Path, dtype: str = "float32") -> None:
    """Write `adapter` to `path`, atomically.

    Tensors are `lora/<component>/<layer path>/lora_A` [n_owned, r], `…/lora_B` [r, m_owned], `tokens/<name>` [v, d],
    and for SDXL also `tokens_2/<name>` [v, d2]. Changes of norms and biases are `vectors/<path>` [c]. The header has
    their digest, so that damage is detected on reading.

    Raises UserError for a dtype that is not "float32" or "bfloat16", for numbers that are not finite, and if the file
    cannot be written.
    """
    if dtype not in _DTYPES:
        raise UserError(f"cannot save an adapter as {dtype!r}; choose {' or '.join(_DTYPES)}")
    tensors, shapes = {}, kernel_shapes(adapter.lora)
    for component, layers in adapter.lora.items():
        for layer, pair in layers.items():
            rows, columns = adapter.info.support(component, layer, shapes[component][layer])
            key = f"lora/{component}/{layer}"
            tensors[f"{key}/lora_A"] = np.asarray(pair.lora_A)[rows]
            tensors[f"{key}/lora_B"] = np.asarray(pair.lora_B)[:, columns]
    for field in _TOKENS:
        tensors |= {f"{field}/{token}": np.asarray(vectors) for token, vectors in getattr(adapter, field).items()}
    tensors |= {f"vectors/{path}": np.asarray(vector) for path, vector in adapter.vectors.items()}
    header = {
        "format_version": FORMAT_VERSION,
        **adapter.info.to_json(),
        "training": json.loads(adapter.info.training),
        **{field: _count(getattr(adapter, field)) for field in _TOKENS},
        "shapes": shapes,
        **({"vectors": {path: len(vector) for path, vector in adapter.vectors.items()}} if adapter.vectors else {}),
    }
    stored = {key: narrow(key, value, _DTYPES[dtype]) for key, value in tensors.items()}
    save_tensors(path, stored, {_HEADER: json.dumps(header), KIND_KEY: "adapter"})


def read_header(path: str | Path) -> dict:
    """The JSON header of an adapter file. Raises UserError if there is none, or if its version is not supported."""
    with open_tensors(path, "adapter file") as file:
        return _header(path, file.metadata)


def read_adapter(
    path: str | Path, verify: bool = True, *, base: BaseModel | None = None, max_rank: int | None = None
) -> AdapterContents:
    """Read an adapter file, or an adapter of another program, into full-size fp32 arrays.

    verify: whether the file's digest, if it has one, must match. base, max_rank: see `read_external_lora`.
    Raises UserError naming every tensor or field that does not fit, or the kind of the file if it cannot be read.
    """
    with open_tensors(path, "adapter file", verify) as file:
        if not is_ours(file.metadata):
            return _external(read_external_lora(path, verify, base=base, max_rank=max_rank))
        return _read(path, file)


def is_ours(metadata: Mapping[str, str] | None) -> bool:
    """Whether a file's metadata is that of one of our adapters. False for files of `merge.export`."""
    try:
        return "format_version" in parse_json((metadata or {})[_HEADER], "the header")
    except (KeyError, TypeError, UserError):
        return False


def _read(path: str | Path, file: TensorFile) -> AdapterContents:
    # Imported here, because only reading needs pydantic.
    from blocklora_jax.adapters.header import read_adapter_header

    header = read_adapter_header(_header(path, file.metadata), str(path))
    try:
        info = header.to_info(json.dumps(header.training))
    except UserError as error:
        raise UserError(f"{path}: the adapter's header lacks or misspells a field ({error})") from error
    shapes = {key: file.shape(key) for key in file.keys}
    counts = {"tokens": header.tokens, "tokens_2": header.tokens_2}
    if wrong := _misfits(info, header.kernel_shapes(), counts, header.vectors, shapes):
        raise UserError(f"{path} does not fit its own header: {'; '.join(wrong)}")
    tensors = {key: np.asarray(tensor, np.float32) for key, tensor in file.tensors()}
    if wrong := _not_finite(tensors):
        raise UserError(f"{path} is not a usable adapter: {', '.join(wrong[:3])} has values that are not finite")
    vectors = {field: {token: tensors[f"{field}/{token}"] for token in names} for field, names in counts.items()}
    changed = {path: tensors[f"vectors/{path}"] for path in header.vectors}
    lora = _expand(info, header.kernel_shapes(), tensors)
    return AdapterContents(lora=lora, **vectors, vectors=changed, info=info)


def _external(lora: ExternalLoRA) -> AdapterContents:
    """An external LoRA as an adapter without blocks, with scale 1: the LoRA's scales are already multiplied in."""
    ranks = [pair.lora_A.shape[1] for layers in lora.lora.values() for pair in layers.values()]
    rank = max(ranks, default=1)
    parts = {name: getattr(lora, name) for name in ("lora", "tokens", "tokens_2", "vectors")}
    fields = {name: value for name, value in lora._asdict().items() if name not in parts}
    return AdapterContents(**parts, info=AdapterInfo(class_noun="", rank=rank, alpha=float(rank), **fields))


def _count(tokens: Mapping[str, Any]) -> dict[str, int]:
    return {token: int(np.shape(vectors)[0]) for token, vectors in tokens.items()}


def _header(path: str | Path, metadata: Mapping[str, str]) -> dict:
    try:
        header = parse_json(metadata[_HEADER], f"the header of {path}")
        version = header["format_version"]
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{path} is a safetensors file but not a blocklora adapter (no 'blocklora' header)") from error
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise UserError(
            f"{path} has adapter format {str(version)[:20]}; this version reads {FORMAT_VERSION}: update blocklora_jax"
        )
    return header


def _misfits(
    info: AdapterInfo,
    kernels: Mapping[str, Mapping[str, tuple[int, int]]],
    counts: Mapping[str, Mapping[str, int]],
    lengths: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[str]:
    """How the stored shapes differ from the header. Checked before tensors are read or made."""
    from blocklora_jax.adapters.header import MOST_NUMBERS

    rest, wrong, numbers = dict(shapes), [], 0
    for component, layers in kernels.items():
        for layer, (n, m) in layers.items():
            got = tuple(rest.pop(f"lora/{component}/{layer}/{name}", None) for name in ("lora_A", "lora_B"))
            try:
                rows, columns = info.support(component, layer, (n, m))
            except UserError as error:
                wrong.append(str(error))
                continue
            a = got[0]
            # A LoRA of another program may have a different rank in each layer, up to info.rank.
            rank = a[-1] if info.origin and a is not None and len(a) == 2 else info.rank
            expected = ((len(rows), rank), (rank, len(columns)))
            if got != expected or not 1 <= rank <= info.rank:
                wrong.append(f"{component}/{layer} has lora_A, lora_B of shapes {got}, expected {expected}")
            numbers += (n + m) * info.rank
    if numbers > MOST_NUMBERS:
        wrong.append(f"its pairs have {numbers:.2g} numbers at full size, more than any adapter has")
    for field, tokens in counts.items():
        for token, count in tokens.items():
            shape = rest.pop(f"{field}/{token}", None)
            if shape is None or len(shape) != 2 or shape[0] != count or not shape[1]:
                wrong.append(f"{field}/{token} is missing or not [{count}, d]")
    wrong += [
        f"vectors/{path} is missing or not [{length}]"
        for path, length in lengths.items()
        if rest.pop(f"vectors/{path}", None) != (length,)
    ]
    return wrong + [f"{key} is not expected" for key in rest]


def _expand(
    info: AdapterInfo, kernels: Mapping[str, Mapping[str, tuple[int, int]]], tensors: Mapping[str, np.ndarray]
) -> LoRATree:
    lora: LoRATree = {component: {} for component in kernels}
    for component, layers in kernels.items():
        for layer, (n, m) in layers.items():
            rows, columns = info.support(component, layer, (n, m))
            a, b = (tensors[f"lora/{component}/{layer}/{name}"] for name in ("lora_A", "lora_B"))
            full_a, full_b = np.zeros((n, a.shape[1]), np.float32), np.zeros((a.shape[1], m), np.float32)
            full_a[rows], full_b[:, columns] = a, b
            lora[component][layer] = LoRAPair(full_a, full_b)
    return lora


def _not_finite(tensors: Mapping[str, np.ndarray]) -> list[str]:
    return [key for key, tensor in tensors.items() if not np.isfinite(tensor).all()]
