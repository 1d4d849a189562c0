"""Strangers: what other people's tokens could be, for an adapter to be silent about. `python -m train.strangers`.

Nobody has other people's tokens, but what training does to tokens on a base can be seen on a few concepts that are not to be
merged: `--strangers` names their adapters, and most strangers are drawn to resemble their tokens. As a file:

    python -m train.strangers ADAPTER_OR_FOLDER ... --out strangers.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import tokens_of
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checks.finite import narrow
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import KIND_KEY, Output, plan_outputs
from blocklora_jax.io.tensor_file import open_tensors, read_metadata, save_tensors
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.references import STRANGERS
from blocklora_jax.prompts.random_prompts import last_token_ids
from train.concept.settings.tokens import TokenSettings

# Of the strangers, where trained tokens to resemble are known; the rest are drawn as if none were.
RESEMBLING = 0.7
# How far a resembling one is from all that is known, in deviations of the token table.
APART = 0.5
_KEY = "blocklora_strangers"

# [concepts, vectors, d]
Offsets = Float[np.ndarray, "_ _ _"]


def draw_strangers(
    settings: TokenSettings, sd: StableDiffusion, nouns: Int[np.ndarray, " p"], seed: int
) -> dict[str, Float[np.ndarray, "p v d"]]:
    """By text encoder, embeddings of a stranger's token for each of p prompts, around their nouns; fp32.

    A function of the seed. Raises: UserError for files of `settings.strangers` that cannot be used.
    """
    spread = settings.token_spread, settings.token_spread * settings.foreign_spread
    known, drawn = load_offsets(settings.strangers, sd), {}
    for part in sd.models.text_encoders:
        key, table = tower_key(jax.random.key(seed + 1), part), token_table(sd.params, part)
        found = foreign_embeddings(table, nouns, settings.token_vectors, spread, key)
        if part in known:
            found = _resembling(found, table, nouns, known[part], key)
        drawn[part] = np.asarray(found)
    return drawn


def tower_key(key: PRNGKeyArray, component: str) -> PRNGKeyArray:
    """Each text encoder's embeddings are drawn from a key of their own."""
    return jax.random.fold_in(key, 3) if component == "text_encoder_2" else key


def foreign_embeddings(
    table: Float[Array, "n d"],
    nouns: Int[np.ndarray, " p"],
    vectors: int,
    spread: tuple[float, float],
    key: PRNGKeyArray,
) -> Float[Array, "p v d"]:
    """Embeddings of tokens that other people's concepts could have: around the noun's, each row as far off as it happens.

    spread: from where to where, in deviations of the table: from where new tokens start to where training takes them.
    """

    def draw(noun: Array, row: Array) -> Array:
        far_key, row_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 2), row))
        deviation = table.std() * jax.random.uniform(far_key, minval=spread[0], maxval=spread[1])
        return table[noun][None] + deviation * jax.random.normal(row_key, (vectors, table.shape[1]))

    return jax.vmap(draw)(jnp.asarray(nouns), jnp.arange(len(nouns)))


def _resembling(
    drawn: Float[Array, "p v d"],
    table: Float[Array, "n d"],
    nouns: Int[np.ndarray, " p"],
    known: Offsets,
    key: PRNGKeyArray,
) -> Float[Array, "p v d"]:
    """`drawn`, most of whose rows are replaced by draws from a Gaussian with the mean and covariance of `known`."""
    rows, vectors, width = drawn.shape
    chosen_key, mix_key, noise_key = jax.random.split(jax.random.fold_in(key, 4), 3)
    offsets = jnp.asarray(known)[:, jnp.arange(vectors) % known.shape[1]]
    mean = offsets.mean(0, keepdims=True)
    mix = jax.random.normal(mix_key, (rows, len(known))) / max(len(known) - 1, 1) ** 0.5
    apart = APART * table.std() * jax.random.normal(noise_key, (rows, vectors, width))
    alike = table[jnp.asarray(nouns)][:, None] + mean + jnp.einsum("pk,kvd->pvd", mix, offsets - mean) + apart
    return jnp.where(jax.random.uniform(chosen_key, (rows, 1, 1)) < RESEMBLING, alike, drawn)


def load_offsets(strangers: Sequence[str] | None, sd: StableDiffusion) -> dict[str, Offsets]:
    """By text encoder, what training added to the class nouns' embeddings; empty if no tokens are known."""
    if strangers is None:
        paths = [STRANGERS] if sd.checkpoint.name == "pocket" and STRANGERS.is_file() else []
    else:
        paths = [Path(path) for path in strangers]
    return _read_all(paths, sd)


def _read_all(paths: Sequence[Path], sd: StableDiffusion) -> dict[str, Offsets]:
    """The offsets of strangers' files, adapters, and all adapters in folders; those of fewer vectors have theirs repeated."""
    if not paths:
        return {}
    digest = params_digest(sd.params)
    found = [_read(file, sd, digest) for path in paths for file in _files(path)]
    most = max(offsets.shape[1] for each in found for offsets in each.values())
    repeated = [{part: offsets[:, np.arange(most) % offsets.shape[1]] for part, offsets in e.items()} for e in found]
    return {part: np.concatenate([each[part] for each in repeated]) for part in sd.models.text_encoders}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("adapter.safetensors"))
    if not files:
        raise UserError(f"--strangers {path} is a folder without any adapter.safetensors")
    return files


def _read(path: Path, sd: StableDiffusion, digest: str) -> dict[str, Offsets]:
    """The offsets of a strangers' file or an adapter. digest: of the base."""
    header = _metadata(path).get(_KEY)
    if header is None:
        return _of_adapter(path, sd, digest)
    stated = parse_json(header, f"the header of {path}")
    if not isinstance(stated, dict) or stated.get("base_digest") != digest:
        raise UserError(f"--strangers {path} is of another base than {sd.checkpoint.name}")
    with open_tensors(path) as file:
        tensors = {part: np.asarray(tensor, np.float32) for part, tensor in file.tensors()}
    for part in sd.models.text_encoders:
        width, found = token_table(sd.params, part).shape[1], tensors.get(part)
        if (
            found is None
            or found.ndim != 3
            or found.shape[2] != width
            or not found.size
            or not np.isfinite(found).all()
        ):
            raise UserError(f"--strangers {path} has no usable tokens [n, v, {width}] for {part}: make it again")
    return {part: tensors[part] for part in sd.models.text_encoders}


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"--strangers: there is no file or folder {path}")
    return read_metadata(path)


def _of_adapter(path: Path, sd: StableDiffusion, digest: str) -> dict[str, Offsets]:
    adapter, found = Adapter.load(path), {}
    if adapter.info.base_digest != digest:
        raise UserError(f"--strangers {path} was trained on another base than {sd.checkpoint.name}")
    if not adapter.tokens:
        raise UserError(f"--strangers {path} has no token to resemble: leave it out")
    noun = last_token_ids(sd.tokenizer, [adapter.info.class_noun])[0]
    for part in sd.models.text_encoders:
        vectors = np.concatenate(list(tokens_of(adapter, part).values()))
        found[part] = vectors[None] - np.asarray(token_table(sd.params, part)[noun], np.float32)
    return found


@dataclass(frozen=True, kw_only=True)
class StrangersOptions:
    """Gather the tokens of adapters in one file for `--strangers`; pictures and weights stay where they are."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Adapters, or folders of them, all trained on one base."""
    out: Path
    """The file to write."""
    model: str = "pocket"
    """Their base: "pocket", a Diffusers folder, a single file, or a hub id."""
    overwrite: bool = False
    """Replace a file that is there already."""

    def __post_init__(self) -> None:
        check_options(self)


def main() -> None:
    """The command line."""
    options = read_options(StrangersOptions, description=__doc__, prog="python -m train.strangers")
    if not options.files:
        raise UserError("name at least one adapter file, or a folder of them")
    plan_outputs([Output(options.out, "strangers")], [*options.files, options.model], overwrite=options.overwrite)
    sd = StableDiffusion.from_pretrained(options.model)
    found = _read_all(options.files, sd)
    tensors = {part: narrow(f"tokens of {part}", offsets, np.dtype(np.float16)) for part, offsets in found.items()}
    header = json.dumps({"base_digest": params_digest(sd.params)})
    save_tensors(options.out, tensors, {_KEY: header, KIND_KEY: "strangers"})
    print(f"wrote {options.out}: tokens of {len(next(iter(found.values())))} concepts")
