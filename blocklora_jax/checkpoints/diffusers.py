"""Reads Diffusers folders, on this machine or on the hub, into configs and Flax parameters, and writes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.checkpoints.checkpoint import CONFIGS, Checkpoint
from blocklora_jax.checkpoints.fit import check_configs, with_end_token
from blocklora_jax.checkpoints.hub import Source, find_source
from blocklora_jax.checkpoints.manifest import check_files, files_of_ours, write_manifest
from blocklora_jax.checkpoints.model_index import check_model_index, make_model_index
from blocklora_jax.checkpoints.replace import replace_folder
from blocklora_jax.checkpoints.shapes import Config, compare_params, compare_tensors
from blocklora_jax.checkpoints.weights import (
    STEMS,
    aligned_copy,
    cast_tensors,
    choose_files,
    list_files,
    read_shapes,
    read_tensors,
)
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.outputs import MANIFEST, Output, plan_outputs
from blocklora_jax.io.tensor_file import DTYPES, forget_pages, stream_tensors
from blocklora_jax.io.tree_paths import flatten_params, unflatten_params
from blocklora_jax.layouts.torch_names import to_flax, torch_views
from blocklora_jax.models.config import TextConfig

# (component, key in PyTorch, tensor) -> tensor
Fill = Callable[[str, str, np.ndarray], np.ndarray]
_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"


def load_folder(
    path_or_hub_id: str | os.PathLike[str],
    *,
    variant: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    verify: bool = True,
    mapped: bool = False,
) -> Checkpoint:
    """Read a model: "pocket", a Diffusers folder, or a hub id (only the files that are needed are fetched).

    Args:
        path_or_hub_id: which model.
        variant: read `….<variant>.safetensors` (such as "fp16") instead of the plain file, for each component that has
            it. If a component has only one file, that file is read.
        revision: branch, tag or commit of a hub repository.
        dtype: type of the returned parameters: "float32", "float16" or "bfloat16". Tensors are read one at a time, so
            memory is needed only for the returned parameters.
        verify: whether the digests in a folder that we saved must match.
        mapped: give read-only views of the files instead of copies, in the stored types. The files must not change as
            long as they are used.

    Raises:
        UserError: there is no such model; files are damaged; a pipeline, class or config value is not supported;
            weights are missing, pickled or corrupt; or tensors are missing, not expected or of another shape, which
            one message lists.
    """
    source = find_source(path_or_hub_id, revision)
    names = source.list_names()
    described = read_description(source, verify)
    parts = described.configs
    first = choose_files(names, parts, variant, source.name)
    files = {part: _fetch_weights(source, first[part]) for part in parts}
    _check_tensors(parts, files, source.name)
    if mapped:
        return replace(described, params={part: _map_params(part, files[part], verify) for part in parts})
    return replace(described, params={part: _read_params(part, files[part], dtype, verify) for part in parts})


def read_description(source: Source, verify: bool = True) -> Checkpoint:
    """The configs, scheduler and tokenizers of a Diffusers folder, without parameters. Raises like `load_folder`."""
    folder = source.fetch([_INDEX, "*/config.json", _SCHEDULER, "tokenizer*/*.json", "tokenizer*/merges.txt", MANIFEST])
    if verify:
        check_files(folder)
    index = _read_json(folder, _INDEX)
    parts = check_model_index(index, source.name)
    configs = {part: CONFIGS[part].from_json(*_read_config(folder, part)) for part in parts}
    check_configs(configs, source.name)
    # diffusers writes `-Infinity` into this file.
    scheduler = _read_json(folder, _SCHEDULER, infinity=True)
    if not isinstance(scheduler.get("_class_name"), str):
        raise UserError(f"{folder / _SCHEDULER} has no _class_name, so it is not a scheduler config")
    second = folder / "tokenizer_2" if "text_encoder_2" in parts else None
    return Checkpoint(
        name=source.name,
        configs=with_end_token(configs, second),
        params={},
        scheduler=scheduler,
        tokenizer=folder / "tokenizer",
        tokenizer_2=second,
        force_zeros_for_empty_prompt=index.get("force_zeros_for_empty_prompt", True) is not False,
        source=folder,
    )


def save_folder(
    path: str | Path,
    checkpoint: Checkpoint,
    *,
    tokens: Mapping[str, int] | None = None,
    dtype: str = "float32",
    merge: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    fill: Fill = lambda part, key, tensor: tensor,
) -> None:
    """Write a Diffusers folder that PyTorch's `StableDiffusionPipeline.from_pretrained` (or `…XL…`) opens.

    The folder is written beside `path` and then moved into place. A model that we saved there before is replaced. Other
    files in it are kept.

    Args:
        path: the folder.
        checkpoint: the model. The text encoders' token tables may have more rows than their configs say: one for each
            vector of `tokens`.
        tokens: concept token -> number of vectors, in the order of those rows. They are added to the tokenizer.
        dtype: "float32", "float16" or "bfloat16".
        merge: the record of a merge (see `merge.manifest`) for the folder's manifest.
        overwrite: also write into a folder that we did not make, and replace files of the same names.
        fill: gives the tensor to write, from its component, its key in PyTorch and its place in `checkpoint.params`,
            which then need only have its shape. So a model can be written that was never in memory as a whole.

    Raises:
        UserError: the parameters do not fit the configs, or a value is beyond the range of the dtype; the folder holds
            other files, or is the one that the model was read from.
    """
    path = Path(path).expanduser()
    plan_outputs([Output(path, "model folder", "--save")], [checkpoint.source], overwrite=overwrite)
    if "_class_name" not in checkpoint.scheduler:
        raise UserError("the scheduler's config has no _class_name, which diffusers needs to open the folder")
    configs = check_params(path, checkpoint, tokens, dtype)
    with replace_folder(path, files_of_ours(path)) as folder:
        is_xl, zeros = "text_encoder_2" in configs, checkpoint.force_zeros_for_empty_prompt
        write_json(folder / _INDEX, make_model_index(checkpoint.scheduler["_class_name"], is_xl, zeros))
        write_json(folder / _SCHEDULER, dict(checkpoint.scheduler))
        for name, tokenizer in checkpoint.make_tokenizers().items():
            tokenizer.save(folder / name, tokens)
        for part, config in configs.items():
            write_json(folder / part / "config.json", config.to_json())  # also makes the folder
            tensors = torch_views(part, checkpoint.params[part])
            _write_part(folder / part / f"{STEMS[part]}.safetensors", tensors, dtype, partial(fill, part))
        write_manifest(folder, merge)


def _write_part(
    path: Path, tensors: Mapping[str, np.ndarray], dtype: str, fill: Callable[[str, np.ndarray], np.ndarray]
) -> None:
    """Write one component's weights, cast one at a time."""
    layout = {key: (tuple(tensor.shape), DTYPES[dtype]) for key, tensor in tensors.items()}
    # transformers refuses a file whose header does not name the framework.
    stream_tensors(path, layout, lambda key: cast_tensors({key: fill(key, tensors[key])}, dtype)[key], {"format": "pt"})


def check_params(
    path: str | Path, checkpoint: Checkpoint, tokens: Mapping[str, int] | None, dtype: str
) -> dict[str, Any]:
    """The configs, with rows for `tokens` in the token tables. Raises UserError if the parameters do not fit them."""
    if dtype not in DTYPES:
        raise UserError(f"cannot save a model as {dtype!r}; choose {', '.join(DTYPES)}")
    configs, added = dict(checkpoint.configs), sum((tokens or {}).values())
    for part, config in checkpoint.configs.items():
        if isinstance(config, TextConfig):
            configs[part] = replace(config, vocab_size=config.vocab_size + added)
    problems = [f"{part}: {item}" for part in configs for item in _compare_params(part, configs, checkpoint.params)]
    if problems:
        hint = "tokens=… names the rows that were appended to the token table"
        raise UserError(f"cannot save {path}: parameters do not fit their config: {'; '.join(problems)}. ({hint})")
    return configs


def _read_json(folder: Path, name: str, infinity: bool = False) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise UserError(f"{folder} is not a Diffusers folder: it has no {name}")
    value = read_json(folder / name, infinity=infinity)
    if not isinstance(value, dict):
        raise UserError(f"{folder / name} does not hold a JSON object")
    return value


def _read_config(folder: Path, part: str) -> tuple[dict[str, Any], str]:
    name = f"{part}/config.json"
    return _read_json(folder, name), str(folder / name)


def _fetch_weights(source: Source, first: str) -> list[Path]:
    files = list_files(source.fetch([first]), first)
    folder = source.fetch(files)
    return [folder / name for name in files]


def _check_tensors(configs: Mapping[str, Config], files: Mapping[str, list[Path]], source: str) -> None:
    problems = []
    for part, config in configs.items():
        items = compare_tensors(part, config, read_shapes(files[part]))
        problems += [f"{part} ({files[part][0].name}): {item}" for item in items]
    if problems:
        raise UserError(
            f"{source}: the weights do not fit the config.json beside them: {'; '.join(problems)}."
            " The files belong to different models, or are incomplete: fetch them again"
        )


def _read_params(part: str, files: list[Path], dtype: str, verify: bool) -> dict[str, Any]:
    flat = {}
    for key, tensor in read_tensors(files, verify=verify):
        # One tensor at a time: the stored tensor is freed before the next one is read.
        for path, array in flatten_params(to_flax(part, {key: tensor})).items():
            flat[path] = aligned_copy(f"{files[0].parent}: {key}", array, dtype)
    return unflatten_params(flat)


def _map_params(part: str, files: list[Path], verify: bool) -> dict[str, Any]:
    flat = {}
    for key, tensor in read_tensors(files, verify=verify):
        flat |= flatten_params(to_flax(part, {key: tensor}))
        # Verifying has read it.
        forget_pages(tensor)
    return unflatten_params(flat)


def _compare_params(part: str, configs: Mapping[str, Config], params: Mapping[str, Any]) -> list[str]:
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in flatten_params(params[part]).items()}
    return compare_params(part, configs[part], shapes)
