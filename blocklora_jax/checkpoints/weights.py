"""The weight files of one component of a Diffusers folder: which to read, and reading them tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # NumPy knows bfloat16 only through it
import numpy as np
from safetensors import SafetensorError, safe_open

from blocklora_jax.errors import UserError
from blocklora_jax.finite import is_finite, narrow

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_ALIGNMENT = 64
_FLOATS = {"F64", "F32", "F16", "BF16"}
_SHARD = r"-\d{5}-of-\d{5}"
_OTHER_FORMATS = (".bin", ".msgpack", ".ckpt", ".pt", ".pth", ".h5", ".onnx")


def choose_file(names: Collection[str], component: str, variant: str | None, source: str) -> str:
    """The file to read first: the weights, or the index of sharded weights.

    Args:
        names: all files of the folder or repository, as "unet/config.json".
        component: "unet", "vae" or "text_encoder".
        variant: "fp16" reads `….fp16.safetensors`; None the plain file, and no other.
        source: the model's name, for messages.

    Raises:
        UserError: no such file, naming the variants that there are, or the format that is not read.
    """
    middle = f".{variant}" if variant else ""
    stem = f"{component}/{STEMS[component]}"
    for name in (f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"):
        if name in names:
            return name
    variants = _find_variants(names, stem)
    if variants:
        found = ", ".join("without variant" if v is None else f"variant={v!r}" for v in variants)
        wanted = f"with variant={variant!r}" if variant else "without a variant"
        raise UserError(f"{source} has no {component} weights {wanted}; it has them {found}: ask for that")
    others = sorted(name for name in names if name.startswith(f"{component}/") and name.endswith(_OTHER_FORMATS))
    if others:
        raise UserError(
            f"{source} has {component} weights only as {others[0]}; only safetensors are read, because a pickle can run"
            " code. Convert it where you trust it: with PyTorch diffusers, StableDiffusionPipeline.from_pretrained(…)"
            ".save_pretrained(folder, safe_serialization=True)"
        )
    raise UserError(f"{source} has no {component} weights: expected {stem}{middle}.safetensors")


def list_files(folder: Path, first: str) -> list[str]:
    """All files of the weights that start with `first`: itself, or the shards that the index names.

    Raises:
        UserError: the index cannot be read or names something else than files beside it.
    """
    if not first.endswith(".json"):
        return [first]
    try:
        shards = sorted(set(json.loads((folder / first).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read the list of weight files {folder / first}: {error!r}") from error
    if odd := [shard for shard in shards if not re.fullmatch(r"[\w.-]+\.safetensors", shard)]:
        raise UserError(f"{folder / first} names {odd[0]!r}, which is no safetensors file beside it")
    return [f"{Path(first).parent.as_posix()}/{shard}" for shard in shards]


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """All keys of a file, and the texts in its header. Raises UserError if it is no complete safetensors file."""
    with _open(path) as file:
        return list(file.keys()), dict(file.metadata() or {})


def read_shapes(
    files: Collection[Path], wanted: Callable[[str], bool] = lambda key: True
) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors whose keys are `wanted`, from the files' headers.

    Raises:
        UserError: a file is missing, cut short or no safetensors; a tensor is in two files or of a type that no
            Stable Diffusion weights have (quantised, for one).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with _open(path) as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                if not wanted(key):
                    continue
                header = file.get_slice(key)
                if key in shapes:
                    raise UserError(f"{path}: tensor {key} is in an earlier file too")
                if header.get_dtype() not in _FLOATS and not key.endswith("position_ids"):
                    raise UserError(
                        f"{path}: {key} is {header.get_dtype()}; weights must be {', '.join(sorted(_FLOATS))}"
                    )
                shapes[key] = tuple(header.get_shape())
    return shapes


def read_tensors(
    files: Collection[Path], wanted: Callable[[str], bool] = lambda key: True
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, tensor) one at a time, in the type that is stored, of all keys that are `wanted`."""
    for path in files:
        with _open(path) as file:
            for key in file.keys():  # noqa: SIM118
                if wanted(key):
                    yield key, file.get_tensor(key)


def aligned_copy(key: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """A contiguous copy of another type, where JAX on a CPU can use it as it lies: not twice in memory.

    Raises: UserError naming the tensor's key, if it has NaN or infinity, or values beyond the type.
    """
    size, kind = array.size * DTYPES[dtype].itemsize, DTYPES[dtype]
    # Large arrays of NumPy's own start 16 bytes into a page; XLA wants 64.
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + size].view(kind).reshape(array.shape)
    with np.errstate(over="ignore"):
        copy[...] = array
    if not is_finite(copy):
        narrow(key, array, kind)
    return copy


def cast_tensors(tensors: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Convert to "float32", "float16" or "bfloat16", contiguous.

    Raises:
        UserError: a value is NaN or infinite, or beyond the range of the type.
    """
    return {key: narrow(key, tensor, DTYPES[dtype]) for key, tensor in tensors.items()}


def _find_variants(names: Collection[str], stem: str) -> list[str | None]:
    patterns = (rf"{stem}(?:\.(\w+))?(?:{_SHARD})?\.safetensors", rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    matches = [match for name in names for pattern in patterns if (match := re.fullmatch(pattern, name))]
    return sorted({match[1] for match in matches}, key=str)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"there is no weight file {path}; is the download complete?") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"cannot read {path} ({error}): it is cut short or no safetensors file; fetch it again"
        ) from error
