"""Trained tokens of other concepts, from adapters or from files of `python -m train.negative_tokens`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import tokens_of
from blocklora_jax.adapters.find import find_adapter
from blocklora_jax.checks.finite import narrow
from blocklora_jax.diffusion.models import token_table
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import is_hub_address
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import KIND_KEY
from blocklora_jax.io.tensor_file import open_tensors, read_metadata, save_tensors
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.references import NEGATIVE_TOKENS
from blocklora_jax.prompts.random_prompts import last_token_ids

# In file headers negative tokens still have their old name.
_KEY, _KIND = "blocklora_strangers", "strangers"

# [concepts, vectors, d]
Offsets = Float[np.ndarray, "_ _ _"]


def load_offsets(paths: Sequence[str] | None, sd: StableDiffusion) -> dict[str, Offsets]:
    """By text encoder, what training has added to the class nouns' embeddings; empty if no trained tokens are known.

    paths: adapters, folders of adapters, or files of `train.negative_tokens`. None: the file that comes with the model.
    """
    if paths is not None:
        return _read_all([Path(path) for path in paths], sd)
    is_packaged = sd.checkpoint.name == "pocket" and NEGATIVE_TOKENS.is_file()
    return _read_all([NEGATIVE_TOKENS] if is_packaged else [], sd)


def write_known_tokens(files: Sequence[Path], model: str, out: Path) -> str:
    """Write the tokens of adapters into one file; returns a line that says what is in it.

    Raises: UserError for files that cannot be used.
    """
    sd = StableDiffusion.from_pretrained(model)
    known = _read_all(files, sd)
    tensors = {part: narrow(f"tokens of {part}", offsets, np.dtype(np.float16)) for part, offsets in known.items()}
    save_tensors(out, tensors, {_KEY: json.dumps({"base_digest": sd.digest}), KIND_KEY: _KIND})
    return f"wrote {out}: tokens of {len(next(iter(known.values())))} concepts"


def _read_all(paths: Sequence[Path], sd: StableDiffusion) -> dict[str, Offsets]:
    """The offsets of all `paths`, one after the other. Tokens with fewer vectors than others repeat them."""
    if not paths:
        return {}
    digest = sd.digest
    by_file = [_read(file, sd, digest) for file in token_files(paths)]
    most = max(offsets.shape[1] for each in by_file for offsets in each.values())
    repeated = [{part: offsets[:, np.arange(most) % offsets.shape[1]] for part, offsets in e.items()} for e in by_file]
    return {part: np.concatenate([each[part] for each in repeated]) for part in sd.models.text_encoders}


def token_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files of `paths`: those in folders, and from the hub.

    Raises: UserError for a folder without adapters, and what is not on the hub.
    """
    return [file for path in paths for file in _files(Path(path))]


def _files(path: Path) -> list[Path]:
    if is_hub_address(path):
        return [find_adapter(path)]
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("adapter.safetensors"))
    if not files:
        raise UserError(f"--negative-tokens {path} is a folder without any adapter.safetensors")
    return files


def _read(path: Path, sd: StableDiffusion, digest: str) -> dict[str, Offsets]:
    """The offsets of an adapter, or of a file of `train.negative_tokens`. digest: of the base."""
    if not path.is_file():
        raise UserError(f"--negative-tokens: there is no file or folder {path}")
    header = read_metadata(path).get(_KEY)
    if header is None:
        return _of_adapter(path, sd, digest)
    stated = parse_json(header, f"the header of {path}")
    if not isinstance(stated, dict) or stated.get("base_digest") != digest:
        raise UserError(f"--negative-tokens {path} belongs to another base than {sd.checkpoint.name}")
    with open_tensors(path) as file:
        tensors = {part: np.asarray(tensor, np.float32) for part, tensor in file.tensors()}
    for part in sd.models.text_encoders:
        width = token_table(sd.params, part).shape[1]
        if not _is_usable(tensors.get(part), width):
            raise UserError(f"--negative-tokens {path} has no usable tokens [n, v, {width}] for {part}: make it again")
    return {part: tensors[part] for part in sd.models.text_encoders}


def _is_usable(offsets: np.ndarray | None, width: int) -> bool:
    return (
        offsets is not None
        and offsets.ndim == 3
        and offsets.shape[2] == width
        and offsets.size > 0
        and bool(np.isfinite(offsets).all())
    )


def _of_adapter(path: Path, sd: StableDiffusion, digest: str) -> dict[str, Offsets]:
    adapter = Adapter.load(path)
    if adapter.info.base_digest != digest:
        raise UserError(f"--negative-tokens {path} was trained on another base than {sd.checkpoint.name}")
    if not adapter.tokens:
        raise UserError(f"--negative-tokens {path} has no token: leave it out")
    noun, offsets = last_token_ids(sd.tokenizer, [adapter.info.class_noun])[0], {}
    for part in sd.models.text_encoders:
        vectors = np.concatenate(list(tokens_of(adapter, part).values()))
        offsets[part] = vectors[None] - np.asarray(token_table(sd.params, part)[noun], np.float32)
    return offsets
