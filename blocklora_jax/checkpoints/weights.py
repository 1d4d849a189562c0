"""The weight files of a component of a Diffusers folder: which ones to read, and reading them tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from blocklora_jax.checks.finite import is_finite, narrow
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.tensor_file import DTYPES, open_tensors
from blocklora_jax.io.transposed import copy_into

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_ALIGNMENT = 64
_SHARD = r"-\d{5}-of-\d{5}"
_OTHER_FORMATS = (".bin", ".msgpack", ".ckpt", ".pt", ".pth", ".h5", ".onnx")


def choose_files(
    names: Collection[str], components: Collection[str], variant: str | None, source: str
) -> dict[str, str]:
    """For each component, the file to read first: the weights, or the index of sharded weights.

    Args:
        names: all files of the folder or repository, such as "unet/config.json".
        components: "unet", "vae", "text_encoder", ….
        variant: "fp16" means `….fp16.safetensors`, or else the plain file. None means the plain file. If a component
            has only one file, that file is read.
        source: the model's name, for messages.

    Raises:
        UserError: a component has no file, or several files but not the requested one; no component has the variant; or
            weights are in a format that is not supported.
    """
    available = {component: _find_variants(names, f"{component}/{STEMS[component]}") for component in components}
    if variant and available and not any(variant in variants for variants in available.values()):
        # No component has it: the variant is mistyped, or it is for another model.
        component = next(iter(available))
        if available[component]:
            raise UserError(_missing_variant(available[component], component, variant, source))
    return {component: choose_file(names, component, variant, source) for component in components}


def choose_file(names: Collection[str], component: str, variant: str | None, source: str) -> str:
    """The file of one component to read first. Arguments and errors: see `choose_files`."""
    stem = f"{component}/{STEMS[component]}"
    variants = _find_variants(names, stem)
    for name in dict.fromkeys((variant, None, *(variants if len(variants) == 1 else ()))):
        middle = f".{name}" if name else ""
        for file in (f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"):
            if file in names:
                return file
    if variants:
        raise UserError(_missing_variant(variants, component, variant, source))
    others = sorted(name for name in names if name.startswith(f"{component}/") and name.endswith(_OTHER_FORMATS))
    if others:
        raise UserError(
            f"{source} has {component} weights only as {others[0]}; only safetensors are read, because a pickle can run"
            " code. If you trust it, convert it with PyTorch diffusers: StableDiffusionPipeline.from_pretrained(…)"
            ".save_pretrained(folder, safe_serialization=True)"
        )
    wanted = f".{variant}" if variant else ""
    raise UserError(f"{source} has no {component} weights: expected {stem}{wanted}.safetensors")


def _missing_variant(variants: Collection[str | None], component: str, variant: str | None, source: str) -> str:
    available = ", ".join("without a variant" if v is None else f"with variant={v!r}" for v in variants)
    wanted = f"with variant={variant!r}" if variant else "without a variant"
    return f"{source} has no {component} weights {wanted}; it has them {available}: choose one of these"


def list_files(folder: Path, first: str) -> list[str]:
    """All weight files: `first` itself, or, if it is an index, the shards that it names.

    Raises:
        UserError: the index cannot be read, or names something other than files beside it.
    """
    if not first.endswith(".json"):
        return [first]
    try:
        shards = set(read_json(folder / first)["weight_map"].values())
    except (KeyError, TypeError, AttributeError, UserError) as error:
        reason = error if isinstance(error, UserError) else "it has no weight_map"
        raise UserError(f"cannot read the list of weight files {folder / first}: {reason}") from error
    if odd := [shard for shard in shards if not re.fullmatch(r"[\w.-]+\.safetensors", str(shard))]:
        raise UserError(f"{folder / first} names {str(odd[0])[:80]!r}, which is not a safetensors file beside it")
    shards = sorted(shards)
    return [f"{Path(first).parent.as_posix()}/{shard}" for shard in shards]


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """All keys of a file, and the texts in its header. Raises UserError if it is not a complete safetensors file."""
    with open_tensors(path, "weight file") as file:
        return file.keys, file.metadata


def read_shapes(
    files: Collection[Path], wanted: Callable[[str], bool] = lambda key: True
) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors whose keys are `wanted`, from the files' headers.

    Raises:
        UserError: a file is missing, cut short or not safetensors; a tensor is in two files, or has a type that is not
            supported, such as a quantised one.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with open_tensors(path, "weight file") as file:
            keys = [key for key in file.keys if wanted(key)]
            if twice := [key for key in keys if key in shapes]:
                raise UserError(f"{path}: tensor {twice[0]} is in an earlier file too")
            # position_ids are integers in files of old transformers. They are not read.
            file.require_floats([key for key in keys if not key.endswith("position_ids")])
            shapes |= {key: file.shape(key) for key in keys}
    return shapes


def read_tensors(
    files: Collection[Path], wanted: Callable[[str], bool] = lambda key: True, verify: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, tensor) for all `wanted` keys, one at a time, in the stored type. Copy each: they are mapped files.

    Raises: UserError, after a file's last tensor, if `verify` and the file has a digest that does not match.
    """
    for path in files:
        with open_tensors(path, "weight file", verify) as file:
            yield from file.tensors(lambda key: wanted(key) and not key.endswith("position_ids"), mapped=True)


def aligned_copy(key: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """A contiguous copy as `dtype`, aligned so that JAX on a CPU can use its memory and needs no second copy.

    Raises: UserError naming the tensor's key, if it has NaN or infinity, or values beyond the range of the type.
    """
    size, kind = array.size * DTYPES[dtype].itemsize, DTYPES[dtype]
    # Large arrays that NumPy allocates start 16 bytes into a page, but XLA needs multiples of 64 bytes.
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    copy = room[start : start + size].view(kind).reshape(array.shape)
    with np.errstate(over="ignore"):
        copy_into(copy, array)
    if not is_finite(copy):
        narrow(key, array, kind)
    return copy


def cast_tensors(tensors: Mapping[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """The tensors as "float32", "float16" or "bfloat16", contiguous.

    Raises:
        UserError: a value is NaN or infinite, or beyond the range of the type.
    """
    return {key: narrow(key, tensor, DTYPES[dtype]) for key, tensor in tensors.items()}


def _find_variants(names: Collection[str], stem: str) -> list[str | None]:
    patterns = (rf"{stem}(?:\.(\w+))?(?:{_SHARD})?\.safetensors", rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    matches = [match for name in names for pattern in patterns if (match := re.fullmatch(pattern, name))]
    return sorted({match[1] for match in matches}, key=str)
