"""Writes one adapter, or the sum of several, as files that PyTorch programs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.sharing.lora_files import lora_header, write_lora_files
from blocklora_jax.adapters.sharing.lora_tensors import LAYOUTS, lora_tensors
from blocklora_jax.adapters.sharing.model_card import card_path, embeddings_folder, make_card, write_card
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.io.tensor_file import DTYPES, read_metadata
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.low_rank import LowRank
from blocklora_jax.layouts.textual_inversion import embedding_path
from merge.concatenate import concatenate, concatenate_each
from merge.truncate import truncate_each


def export(
    adapters: Adapter | Sequence[Adapter],
    path: str | Path,
    layout: str = "diffusers",
    weights: Sequence[Any] | None = None,
    dtype: str = "float32",
    *,
    allow_overlap: bool = False,
    max_rank: int | None = None,
    card: bool = True,
    overwrite: bool = False,
    family: str | None = None,
) -> list[Path]:
    """Write `adapters` as one LoRA file at `path`, with tokens and a model card beside it. Gives the paths written.

    The LoRA's rank is the sum of all ranks, and it is exact. Weights and scales are multiplied in. Changes of norms and
    biases are left out, because LoRA files of diffusers cannot hold them; header and card say so. These files are
    written for `merged.safetensors`:

    - `merged.safetensors`: for `pipe.load_lora_weights` (layout "diffusers"), or for ComfyUI, A1111 and diffusers
      (layout "kohya");
    - `merged.<name>.safetensors`: for `pipe.load_textual_inversion`;
    - `merged.embeddings/<name>.safetensors`: for ComfyUI and A1111;
    - `README.md` (`merged.md` if there is another README.md): says how to load them.

    max_rank: reduce every layer's rank to it by the best approximation. The header has the error ("relative_error").
    overwrite: also replace files that are not from an earlier export.
    family: "sd1", "sd2" or "sdxl", if the adapters do not state it (LoRAs of other programs).

    Raises UserError for an unknown layout or dtype, a path that does not end in `.safetensors`, adapters that cannot be
    merged with each other, an unknown family if the layers' names or shapes depend on it, and existing files that are
    not from an earlier export.

    >>> from tempfile import mkdtemp
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> paths = export(adapters, Path(mkdtemp()) / "both.safetensors", layout="kohya", card=False)
    >>> [path.name for path in paths]
    ['both.safetensors', 'both.ada.safetensors', 'ada.safetensors', 'both.bob.safetensors', 'bob.safetensors']
    """
    adapters, path = [adapters] if isinstance(adapters, Adapter) else list(adapters), Path(path).expanduser()
    _check_options(path, layout, dtype, family)
    plan_outputs(export_outputs(path, adapters, card), overwrite=overwrite)
    lowrank, error = _factors(adapters, weights, max_rank, allow_overlap)
    left_out = sorted({path for adapter in adapters for path in adapter.vectors})
    factors = [1.0] * len(adapters) if weights is None else [float(w) for w in weights]
    family, tensors = lora_tensors(adapters, lowrank, layout, DTYPES[dtype], family)
    more = {} if error is None else {"max_rank": max_rank, "relative_error": error}
    more |= {"left_out": left_out} if left_out else {}
    files = write_lora_files(path, adapters, tensors, lora_header(adapters, factors, layout, family, **more), dtype)
    if not card:
        return files
    notes = [] if error is None else [f"Ranks are cut to {max_rank}: {error:.2%} of the change is left out."]
    notes += [f"{len(left_out)} changes of norms and biases are left out."] if left_out else []
    note = " ".join(notes)
    return [*files, write_card(path, make_card(path, adapters, factors, family, note))]


def _factors(
    adapters: Sequence[Adapter], weights: Sequence[Any] | None, max_rank: int | None, allow_overlap: bool
) -> tuple[LowRank, float | None]:
    """The sum's factors, and the error of reducing their ranks; None if they are not reduced."""
    if max_rank is None:
        return concatenate(adapters, weights, allow_overlap=allow_overlap), None
    return truncate_each(concatenate_each(adapters, weights, allow_overlap=allow_overlap), max_rank)


def export_outputs(path: Path, adapters: Sequence[Adapter], card: bool) -> list[Output]:
    """All files that `export` writes."""
    files = [embedding_path(path, token) for token in token_counts(adapters)]
    files += [embeddings_folder(path) / f"{token.strip('<>')}.safetensors" for token in token_counts(adapters)]
    cards = [Output(card_path(path), "card")] if card else []
    return [Output(path, "lora"), *(Output(file, "tokens") for file in files), *cards]


def read_export_header(path: str | Path) -> dict[str, Any]:
    """The JSON that `export` wrote into the file's header."""
    return parse_json(read_metadata(path)["blocklora"], f"the header of {path}")


def _check_options(path: Path, layout: str, dtype: str, family: str | None) -> None:
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; this version writes {', '.join(LAYOUTS)}")
    if dtype not in DTYPES:
        raise UserError(f"cannot export as {dtype!r}; choose one of {', '.join(DTYPES)}")
    if family not in (None, *FAMILIES):
        raise UserError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors, or PyTorch programs will not read it")
