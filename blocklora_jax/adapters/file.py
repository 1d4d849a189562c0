"""The adapter file: safetensors that hold only the owned blocks, and a JSON header that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blocklora_jax.adapters.lora import Adapter, AdapterInfo, LoRAPair, LoRATree
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_atomic
from blocklora_jax.finite import narrow
from blocklora_jax.random_prompts import Kind

FORMAT_VERSION = 1
_TOKENS = ("tokens", "tokens_2")
# Fields that earlier files of this version lack.
_SINCE = {"tokens_2": {}, "base_family": "sd1", "origin": ""}
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def save_adapter(adapter: Adapter, path: str | Path, dtype: str = "float32") -> None:
    """Write `adapter` to `path`, beside it first and then moved into place.

    Tensors are `lora/<component>/<layer path>/lora_A` [n_owned, r], `…/lora_B` [r, m_owned], `tokens/<name>` [v, d] and, for
    SDXL, `tokens_2/<name>` [v, d2].
    Raises UserError for another dtype than "float32" or "bfloat16", and values that are not finite.
    """
    if dtype not in _DTYPES:
        raise UserError(f"cannot save an adapter as {dtype!r}; choose {' or '.join(_DTYPES)}")
    tensors, shapes = {}, adapter.shapes()
    for component, layers in adapter.lora.items():
        for layer, pair in layers.items():
            rows, columns = adapter.info.support(component, layer, shapes[component][layer])
            key = f"lora/{component}/{layer}"
            tensors[f"{key}/lora_A"] = np.asarray(pair.lora_A)[rows]
            tensors[f"{key}/lora_B"] = np.asarray(pair.lora_B)[:, columns]
    for field in _TOKENS:
        tensors |= {f"{field}/{token}": np.asarray(vectors) for token, vectors in getattr(adapter, field).items()}
    header = {
        "format_version": FORMAT_VERSION,
        **adapter.info.to_json(),
        "training": json.loads(adapter.info.training),
        **{field: _count(getattr(adapter, field)) for field in _TOKENS},
        "shapes": shapes,
    }
    stored = {key: narrow(key, value, _DTYPES[dtype]) for key, value in tensors.items()}
    write_atomic(path, save(stored, metadata={"blocklora": json.dumps(header)}))


def read_header(path: str | Path) -> dict:
    """The JSON header of an adapter file. Raises UserError if there is none or its version is newer than ours."""
    with _open(path) as file:
        return _header(path, file.metadata())


def load_adapter(path: str | Path) -> Adapter:
    """Read an adapter file, or a LoRA of another program, into full-size fp32 arrays.

    Raises UserError naming every tensor that does not fit, or what kind of file it is that is not read.
    """
    with _open(path) as file:
        if not is_ours(file.metadata()):
            from blocklora_jax.formats.foreign import read_foreign_lora

            return read_foreign_lora(path)
        header = _header(path, file.metadata())
        tensors = {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    try:
        info, counts = _info(header), {field: dict(header[field]) for field in _TOKENS}
        lora, wrong = _expand(info, header["shapes"], tensors)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{path}: the adapter's header lacks or misspells a field ({error})") from error
    tokens = {field: {t: tensors.pop(f"{field}/{t}", None) for t in names} for field, names in counts.items()}
    for field, found in tokens.items():
        misfits = [t for t, v in found.items() if v is None or v.ndim != 2 or len(v) != counts[field][t]]
        wrong += [f"{field}/{token} is missing or not [{counts[field][token]}, d]" for token in misfits]
    wrong += [f"{key} is not expected" for key in tensors]
    if wrong:
        raise UserError(f"{path} does not fit its own header: {'; '.join(wrong)}")
    vectors = {field: {t: np.asarray(v, np.float32) for t, v in found.items()} for field, found in tokens.items()}
    return Adapter(lora=lora, **vectors, info=info)


def _count(tokens: Mapping[str, Any]) -> dict[str, int]:
    return {token: int(np.shape(vectors)[0]) for token, vectors in tokens.items()}


def _open(path: str | Path):
    if not Path(path).is_file():
        raise UserError(f"there is no adapter file {path}")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); copy or download it again") from error


def is_ours(metadata: dict | None) -> bool:
    """Whether a file's metadata are those of an adapter of ours; what `merge.export` writes is for others."""
    try:
        return "format_version" in json.loads((metadata or {})["blocklora"])
    except (KeyError, TypeError, ValueError):
        return False


def _header(path: str | Path, metadata: dict | None) -> dict:
    try:
        header = json.loads((metadata or {})["blocklora"])
        version = header["format_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a safetensors file but not a blocklora adapter (no 'blocklora' header)") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has adapter format {version}; this version reads {FORMAT_VERSION}: update blocklora_jax"
        )
    return {**_SINCE, **header}


def _info(header: dict) -> AdapterInfo:
    fields = {name: header[name] for name in AdapterInfo.__dataclass_fields__}
    if fields["kind"] not in get_args(Kind):
        raise ValueError(f"kind {fields['kind']!r}, which is none of {', '.join(get_args(Kind))}")
    partition = Partition(**fields["partition"]) if fields["partition"] else None
    return AdapterInfo(
        **fields
        | {
            "partition": partition,
            "slots": partition.check_slots(tuple(fields["slots"])) if partition else (),
            "training": json.dumps(header["training"]),
        }
    )


def _expand(info: AdapterInfo, shapes: dict, tensors: dict) -> tuple[LoRATree, list[str]]:
    lora: LoRATree = {component: {} for component in shapes}
    wrong = []
    for component, layers in shapes.items():
        for layer, (n, m) in layers.items():
            rows, columns = info.support(component, layer, (n, m))
            a, b = (tensors.pop(f"lora/{component}/{layer}/{name}", None) for name in ("lora_A", "lora_B"))
            # A LoRA of another program may have a rank of its own in every layer, up to info.rank.
            rank = a.shape[-1] if info.origin and a is not None and a.ndim == 2 else info.rank
            expected = ((len(rows), rank), (rank, len(columns)))
            if a is None or b is None or (a.shape, b.shape) != expected:
                got = tuple(None if x is None else x.shape for x in (a, b))
                wrong.append(f"{component}/{layer} has lora_A, lora_B of shapes {got}, expected {expected}")
                continue
            full_a, full_b = np.zeros((n, rank), np.float32), np.zeros((rank, m), np.float32)
            full_a[rows], full_b[:, columns] = a, b
            lora[component][layer] = LoRAPair(full_a, full_b)
    return lora, wrong
