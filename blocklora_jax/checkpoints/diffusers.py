"""Whole models: a Diffusers folder (here or on the hub) to configs and Flax parameters, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from blocklora_jax.checkpoints.hub import Source, find_source
from blocklora_jax.checkpoints.layout import to_flax, to_torch
from blocklora_jax.checkpoints.model_index import check_model_index, make_model_index
from blocklora_jax.checkpoints.replace import replace_folder
from blocklora_jax.checkpoints.shapes import Config, compare_params, compare_tensors
from blocklora_jax.checkpoints.trees import flatten_params, unflatten_params
from blocklora_jax.checkpoints.weights import (
    DTYPES,
    STEMS,
    cast_tensors,
    choose_file,
    list_files,
    read_shapes,
    read_tensors,
)
from blocklora_jax.errors import UserError
from blocklora_jax.files import write_json
from blocklora_jax.models.config import TextConfig, UNetConfig, VAEConfig
from blocklora_jax.tokens import Tokenizer

CONFIGS = {"unet": UNetConfig, "vae": VAEConfig, "text_encoder": TextConfig}
_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Stable Diffusion model as data.

    name: as it was asked for. configs and params: by "unet", "vae", "text_encoder"; params are nested dicts in Flax
    names and layout. scheduler: the parsed `scheduler_config.json`. tokenizer: the folder of the tokenizer's files.
    """

    name: str
    configs: Mapping[str, Any]
    params: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    tokenizer: Path

    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer; concept tokens are numbered from the rows of this model's token table on."""
        text = self.configs["text_encoder"]
        return Tokenizer(self.tokenizer, text.vocab_size, text.max_position_embeddings)


def load_folder(
    path_or_hub_id: str | os.PathLike[str],
    *,
    variant: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
) -> Checkpoint:
    """Read a model: "pocket", a Diffusers folder, or a hub id (only the files that are needed are fetched).

    Args:
        path_or_hub_id: which model.
        variant: read `….<variant>.safetensors` ("fp16") of each component instead of the plain files.
        revision: branch, tag or commit of a hub repository.
        dtype: type of the parameters returned: "float32", "float16" or "bfloat16". Tensors are read one at a time, so
            no more memory is needed than for these.

    Raises:
        UserError: no such model; a pipeline, class or config value that is not supported; weights that are missing,
            pickled or corrupt; or, all in one message, every tensor that is missing, not expected or of another shape.
    """
    source = find_source(path_or_hub_id, revision)
    names = source.list_names()
    folder = source.fetch([_INDEX, "*/config.json", _SCHEDULER, "tokenizer/*.json", "tokenizer/merges.txt"])
    check_model_index(_read_json(folder, _INDEX), source.name)
    configs = {part: kind.from_json(*_read_config(folder, part)) for part, kind in CONFIGS.items()}
    _check_configs(configs, source.name)
    scheduler = _read_json(folder, _SCHEDULER)
    files = {part: _fetch_weights(source, names, part, variant) for part in CONFIGS}
    _check_tensors(configs, files, source.name)
    return Checkpoint(
        name=source.name,
        configs=configs,
        params={part: _read_params(part, files[part], dtype) for part in CONFIGS},
        scheduler=scheduler,
        tokenizer=folder / "tokenizer",
    )


def save_folder(
    path: str | Path,
    checkpoint: Checkpoint,
    *,
    tokens: Mapping[str, int] | None = None,
    dtype: str = "float32",
) -> None:
    """Write a Diffusers folder that PyTorch's `StableDiffusionPipeline.from_pretrained` opens.

    It is written beside `path` and then moved into place; an earlier model there is replaced.

    Args:
        path: the folder.
        checkpoint: what to write. The text encoder's token table may have rows more than its config says: one for
            each vector of `tokens`.
        tokens: concept token -> number of vectors, in the order of those rows; they join the tokenizer.
        dtype: "float32", "float16" or "bfloat16".

    Raises:
        UserError: parameters and configs do not fit each other; a value beyond float16; a folder of something else.
    """
    if dtype not in DTYPES:
        raise UserError(f"cannot save a model as {dtype!r}; choose {', '.join(DTYPES)}")
    if "_class_name" not in checkpoint.scheduler:
        raise UserError("the scheduler's config names no _class_name, which diffusers needs to open the folder")
    text: TextConfig = checkpoint.configs["text_encoder"]
    rows = text.vocab_size + sum((tokens or {}).values())
    configs = {**checkpoint.configs, "text_encoder": replace(text, vocab_size=rows)}
    problems = [f"{part}: {item}" for part in CONFIGS for item in _compare_params(part, configs, checkpoint.params)]
    if problems:
        hint = "rows appended to the token table are named by tokens=…"
        raise UserError(f"cannot save {path}: parameters do not fit their config: {'; '.join(problems)}. ({hint})")
    with replace_folder(path, marker=_INDEX) as folder:
        write_json(folder / _INDEX, make_model_index(checkpoint.scheduler["_class_name"]))
        write_json(folder / _SCHEDULER, dict(checkpoint.scheduler))
        checkpoint.make_tokenizer().save(folder / "tokenizer", tokens)
        for part, config in configs.items():
            write_json(folder / part / "config.json", config.to_json())  # makes the folder, too
            tensors = cast_tensors(to_torch(part, checkpoint.params[part]), dtype)
            # transformers refuses a file that does not say which framework's layout it has.
            save_file(tensors, folder / part / f"{STEMS[part]}.safetensors", metadata={"format": "pt"})


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no Diffusers folder: it has no {name}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / name}: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{folder / name} does not hold a JSON object")
    return value


def _read_config(folder: Path, part: str) -> tuple[dict[str, Any], str]:
    name = f"{part}/config.json"
    return _read_json(folder, name), str(folder / name)


def _check_configs(configs: Mapping[str, Any], source: str) -> None:
    unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
    for what, got, other, wanted in (
        ("unet in_channels", unet.in_channels, "vae latent_channels", vae.latent_channels),
        ("unet out_channels", unet.out_channels, "vae latent_channels", vae.latent_channels),
        ("unet cross_attention_dim", unet.cross_attention_dim, "text_encoder hidden_size", text.hidden_size),
    ):
        if got != wanted:
            raise UserError(
                f"{source}: {what} is {got}, but {other} is {wanted}; only text-to-image models are supported,"
                " no inpainting, depth or image-conditioned ones"
            )


def _fetch_weights(source: Source, names: list[str], part: str, variant: str | None) -> list[Path]:
    first = choose_file(names, part, variant, source.name)
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
            " The files are of different models, or incomplete: fetch them again"
        )


def _read_params(part: str, files: list[Path], dtype: str) -> dict[str, Any]:
    flat = {}
    for key, tensor in read_tensors(files):
        # One tensor at a time: the stored one is let go before the next is read.
        for path, array in flatten_params(to_flax(part, {key: tensor})).items():
            flat[path] = np.ascontiguousarray(array, DTYPES[dtype])
    return unflatten_params(flat)


def _compare_params(part: str, configs: Mapping[str, Config], params: Mapping[str, Any]) -> list[str]:
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in flatten_params(params[part]).items()}
    return compare_params(part, configs[part], shapes)
