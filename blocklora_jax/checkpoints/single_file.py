"""Reads and writes a whole model as one original `.safetensors` file (LDM names)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.checkpoints.checkpoint import Checkpoint
from blocklora_jax.checkpoints.config_source import find_config
from blocklora_jax.checkpoints.diffusers import check_params, read_description
from blocklora_jax.checkpoints.hub import POCKET, find_source
from blocklora_jax.checkpoints.prediction import CONFIG, SCHEDULER, marker_keys
from blocklora_jax.checkpoints.recognise import SUPPORTED, check_suffix, is_wanted, recognise_family, usual_key
from blocklora_jax.checkpoints.shapes import Shape, compare_tensors, param_shapes, torch_shape
from blocklora_jax.checkpoints.weights import aligned_copy, cast_tensors, read_header, read_shapes, read_tensors
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import KIND_KEY, Output, plan_outputs
from blocklora_jax.io.tensor_file import DTYPES, save_tensors, stream_tensors
from blocklora_jax.io.tree_paths import flatten_params, unflatten_params
from blocklora_jax.layouts.components import TEXT_ENCODERS
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.ldm import Place, invert_table, is_vae_attention, join_tensors, ldm_table, split_tensor
from blocklora_jax.layouts.textual_inversion import embedding_path, embedding_tensors
from blocklora_jax.layouts.token_tables import TOKEN_TABLE, token_table
from blocklora_jax.layouts.torch_names import to_flax, to_torch, torch_key
from blocklora_jax.prompts.clip_tokenizer import TokenizerFiles


def load_single_file(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    verify: bool = True,
) -> Checkpoint:
    """Read a model from one original `.safetensors` file of Stable Diffusion 1.x, 2.x or SDXL.

    Args:
        path: the file.
        config: the source of configs, scheduler and tokenizer, which are not in the file: a Diffusers folder (its
            weights are not read and may be missing), a hub id, or "sd15", "sd21", "sd21-base" or "sdxl" for published
            models. None: the published model of the file's kind, from the hub or its cache, or the bundled files if it
            is the pocket model. What the file states about its prediction type and noise takes precedence: see
            `checkpoints.prediction`.
        dtype: type of the returned parameters: "float32", "float16" or "bfloat16".
        verify: whether the digest in the header, if there is one, must match.

    Raises:
        UserError: the file is of another kind (named in the message); there is no config (the message says how to
            give one); or tensors are missing, not expected or of another shape, which one message lists.
    """
    path = Path(path).expanduser()
    check_suffix(path)
    keys, metadata = read_header(path)
    shapes = {usual_key(key): shape for key, shape in read_shapes([path], is_wanted).items()}
    family = recognise_family(path, keys, shapes)
    described = find_config(path, family, config, keys, metadata)
    inverse = invert_table(make_table(described))
    _check_tensors(path, described, inverse, shapes)
    params = _read_params(path, inverse, dtype, verify)
    return replace(described, name=str(path), params=params, source=path)


def save_single_file(
    path: str | Path,
    checkpoint: Checkpoint,
    *,
    tokens: Mapping[str, int] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> list[Path]:
    """Write a model as one original `.safetensors` file. Gives the paths of the files written.

    Such a file cannot hold concept tokens. Each gets an embedding file beside it, `NAME.<token>.safetensors`, as
    `merge.export` writes them. Tensors are written one at a time.

    Args:
        path: the file.
        checkpoint: the model. Its token tables may have more rows than its configs say: one for each vector of
            `tokens`.
        tokens: concept token -> number of vectors, in the order of those rows.
        dtype: "float32", "float16" or "bfloat16".
        overwrite: also replace files that this function did not write; see `io.outputs`.

    Raises:
        UserError: the parameters do not fit the configs, or a value is beyond the range of the dtype; the path does not
            end in `.safetensors`, is an existing file of another kind, or is the base model's own file.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors, or other programs will not read it")
    plan_outputs(single_file_outputs(path, tokens or {}), [checkpoint.source], overwrite=overwrite)
    check_params(path, checkpoint, tokens, dtype)
    inverse, names, shapes = invert_table(make_table(checkpoint)), _flax_paths(checkpoint), _torch_shapes(checkpoint)
    leaves = {part: flatten_params(tree) for part, tree in checkpoint.params.items()}
    markers = marker_keys(checkpoint.scheduler) if FAMILIES[checkpoint.family].marks_velocity else ()

    def torch_tensor(part: str, key: str) -> np.ndarray:
        flax = names[part][key]
        leaf = np.asarray(leaves[part][flax])
        leaf = leaf[: checkpoint.configs[part].vocab_size] if flax == TOKEN_TABLE else leaf
        return to_torch(part, unflatten_params({flax: leaf}))[key]

    def stored_tensor(key: str) -> np.ndarray:
        joined = join_tensors(inverse[key], [torch_tensor(*entry) for entry in inverse[key]])
        return cast_tensors({key: joined}, dtype)[key]

    stream_tensors(
        path,
        {key: (stored_shape(entries, shapes), DTYPES[dtype]) for key, entries in inverse.items()}
        | dict.fromkeys(markers, ((0,), DTYPES[dtype])),
        lambda key: stored_tensor(key) if key in inverse else np.zeros(0, DTYPES[dtype]),
        _metadata(checkpoint),
    )
    return [path, *_write_tokens(path, checkpoint, tokens or {}, dtype)]


def single_file_outputs(path: Path, tokens: Mapping[str, int]) -> list[Output]:
    """All files that `save_single_file` writes."""
    flag = "--save"
    return [
        Output(path, "model file", flag),
        *(Output(embedding_path(path, token), "tokens", flag) for token in tokens),
    ]


def make_table(checkpoint: Checkpoint) -> dict[tuple[str, str], Place]:
    """The table of names in the single file, for a model with these configs."""
    return ldm_table(checkpoint.family, _flax_paths(checkpoint))


def stored_shape(entries: Sequence[tuple[str, str]], shapes: Mapping[str, Mapping[str, Shape]]) -> Shape:
    """Shape of the tensor in the single file that holds the PyTorch tensors `entries`."""
    component, key = entries[0]
    shape = shapes[component][key]
    if key == "text_projection.weight":
        return shape[::-1]
    return (*shape, 1, 1) if is_vae_attention(component, key) else (len(entries) * shape[0], *shape[1:])


def _flax_paths(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """{component: {PyTorch key: Flax path}}."""
    return {
        part: {torch_key(part, path): path for path in param_shapes(config)}
        for part, config in checkpoint.configs.items()
    }


def _torch_shapes(checkpoint: Checkpoint) -> dict[str, dict[str, Shape]]:
    return {
        part: {torch_key(part, path): torch_shape(path, shape) for path, shape in param_shapes(config).items()}
        for part, config in checkpoint.configs.items()
    }


def _check_tensors(
    path: Path, described: Checkpoint, inverse: Mapping[str, list[tuple[str, str]]], shapes: Mapping[str, Shape]
) -> None:
    torch_shapes: dict[str, dict[str, Shape]] = {part: {} for part in described.configs}
    extra = []
    for key, shape in shapes.items():
        if key in inverse:
            for component, name in inverse[key]:
                torch_shapes[component][name] = _torch_part(inverse[key], shape)
        elif not _is_last_block(key, described):
            extra.append(key)
    problems = [
        f"{part}: {item}"
        for part, config in described.configs.items()
        for item in compare_tensors(part, config, torch_shapes[part])
    ]
    if extra:
        problems.append(f"{len(extra)} not expected ({', '.join(sorted(extra)[:4])}{', …' if len(extra) > 4 else ''})")
    if problems:
        raise UserError(
            f"{path} does not fit the configs of {described.name}: {'; '.join(problems)}. Give the config of the model"
            f" that the file was made from; {SUPPORTED}"
        )


def _torch_part(entries: Sequence[tuple[str, str]], shape: Shape) -> Shape:
    """Shape of each of the PyTorch tensors in a stored tensor."""
    component, key = entries[0]
    if len(entries) > 1:
        # A length that cannot be divided is kept, and reported later as a wrong shape.
        return (shape[0] // len(entries) if shape[0] % len(entries) == 0 else shape[0], *shape[1:])
    if key == "text_projection.weight":
        return shape[::-1]
    return shape[:2] if is_vae_attention(component, key) and set(shape[2:]) <= {1} else shape


def _is_last_block(key: str, described: Checkpoint) -> bool:
    """Whether a key belongs to OpenCLIP's last block. Stable Diffusion 2.x does not use it; Diffusers leaves it out."""
    block = re.match(r"cond_stage_model\.model\.transformer\.resblocks\.(\d+)\.", key)
    return block is not None and int(block[1]) == described.configs["text_encoder"].num_hidden_layers


def _read_params(path: Path, inverse: Mapping[str, list[tuple[str, str]]], dtype: str, verify: bool) -> dict[str, Any]:
    flat: dict[str, dict[str, np.ndarray]] = {part: {} for entries in inverse.values() for part, _ in entries}
    for key, tensor in read_tensors([path], lambda key: usual_key(key) in inverse, verify):
        entries = inverse[usual_key(key)]
        for (part, name), piece in zip(entries, split_tensor(entries, tensor), strict=True):
            for leaf, array in flatten_params(to_flax(part, {name: piece})).items():
                flat[part][leaf] = aligned_copy(f"{path}: {key}", array, dtype)
    return {part: unflatten_params(leaves) for part, leaves in flat.items()}


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The header, with the model's kind for other programs. Source: Stability AI's model metadata standard."""
    velocity = checkpoint.scheduler.get("prediction_type") == "v_prediction"
    family = FAMILIES[checkpoint.family]
    architecture = (velocity and family.velocity_architecture) or family.architecture
    return {
        "format": "pt",
        KIND_KEY: "model file",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.prediction_type": "v" if velocity else "epsilon",
        "modelspec.title": checkpoint.name,
        # Holds what the standard has no fields for: betas, zero terminal SNR, spacing.
        SCHEDULER: json.dumps(dict(checkpoint.scheduler), sort_keys=True),
        **({CONFIG: POCKET} if _is_pocket(checkpoint) else {}),
    }


def _is_pocket(checkpoint: Checkpoint) -> bool:
    """Whether the model has the pocket model's configs and vocabulary, so that a file of it needs no other source."""
    pocket = read_description(find_source(POCKET))
    return dict(checkpoint.configs) == dict(pocket.configs) and (
        TokenizerFiles.read(checkpoint.tokenizer) == TokenizerFiles.read(pocket.tokenizer)
    )


def _write_tokens(path: Path, checkpoint: Checkpoint, tokens: Mapping[str, int], dtype: str) -> list[Path]:
    tables = {
        part: np.asarray(token_table(checkpoint.params, part)) for part in TEXT_ENCODERS if part in checkpoint.params
    }
    written, start = [], 0
    for token, count in tokens.items():
        rows = [table[checkpoint.configs[part].vocab_size + start :][:count] for part, table in tables.items()]
        tensors = embedding_tensors(token, rows[0], DTYPES[dtype], rows[1] if len(rows) > 1 else None)
        written.append(embedding_path(path, token))
        save_tensors(written[-1], tensors, {"format": "pt", KIND_KEY: "tokens"})
        start += count
    return written
