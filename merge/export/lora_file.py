"""Writes one adapter, or the sum of several, as files that PyTorch programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens, token_counts
from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.outputs import KIND_KEY, Output, plan_outputs
from blocklora_jax.io.tensor_file import DTYPES, read_metadata, save_tensors
from blocklora_jax.layouts.families.recognise import Shape, possible_families
from blocklora_jax.layouts.families.table import FAMILIES
from blocklora_jax.layouts.kohya import kohya_tensors
from blocklora_jax.layouts.low_rank import LowRank
from blocklora_jax.layouts.peft import peft_tensors
from blocklora_jax.layouts.textual_inversion import a1111_tensors, embedding_path, embedding_tensors
from merge.concatenate import concatenate, concatenate_each
from merge.export.model_card import card_path, embeddings_folder, make_card, write_card
from merge.truncate import truncate_each

LAYOUTS = {"diffusers": peft_tensors, "kohya": kohya_tensors}


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
    family, tensors = _layers(adapters, lowrank, layout, DTYPES[dtype], family)
    header = {
        "layout": layout,
        "adapters": [adapter.name for adapter in adapters],
        "weights": factors,
        "trigger": " and ".join(adapter.info.trigger for adapter in adapters if adapter.info.trigger),
        **_base(adapters),
        "base_family": family,
        "tokens": token_counts(adapters),
        **({} if error is None else {"max_rank": max_rank, "relative_error": error}),
        **({"left_out": left_out} if left_out else {}),
    }
    files = {path: tensors} | _token_files(path, adapters, DTYPES[dtype])
    for file, tensors in files.items():
        kind = "lora" if file == path else "tokens"
        save_tensors(file, tensors, {"format": "pt", "blocklora": json.dumps(header), KIND_KEY: kind})
    if not card:
        return list(files)
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


def base_family(adapters: Sequence[Adapter], family: str | None = None) -> str:
    """The family ("sd1", "sd2", "sdxl") of the adapters' base model; "" if neither they nor `family` state it.

    Raises UserError if `family` differs from what our adapters state, or if LoRAs of other programs are for several
    families.
    """
    # Our adapters state their family. That of another program's LoRA is only concluded from its layers.
    ours = next((a.info for a in adapters if not a.info.origin and a.info.base_family), None)
    if ours and family not in (None, ours.base_family):
        raise UserError(f"family is {family!r} (--family {family}), but {ours.name!r} is for {ours.base_family}")
    if ours or family:
        return ours.base_family if ours else family or ""
    stated = {adapter.info.base_family: adapter.name for adapter in adapters if adapter.info.base_family}
    if len(stated) > 1:
        kinds = ", ".join(f"{name!r} for {kind}" for kind, name in sorted(stated.items()))
        raise UserError(f"the adapters are for different families of models: {kinds}; export them separately")
    return next(iter(stated), "")


def _layers(
    adapters: Sequence[Adapter], lowrank: LowRank, layout: str, dtype: np.dtype, family: str | None
) -> tuple[str, dict[str, np.ndarray]]:
    """The family ("" if it is not known and makes no difference), and the LoRA's tensors."""
    stated, possible = base_family(adapters, family), _possible_families(lowrank)
    if family and family not in possible and all(adapter.info.origin for adapter in adapters):
        kinds = " or ".join(sorted(possible))
        raise UserError(
            f"family is {family!r} (--family {family}), but only {kinds} has layers with these names and sizes"
        )
    if stated:
        return stated, LAYOUTS[layout](lowrank, dtype, stated)
    variants = [LAYOUTS[layout](lowrank, dtype, name) for name in sorted(possible)]
    if any(_shapes(tensors) != _shapes(variants[0]) for tensors in variants):
        kinds = sorted(possible)
        raise UserError(
            f"the adapters do not say whether they are for {' or '.join(kinds)}, and in the layout {layout!r} their"
            f" layers differ between these: give the base model's family as family=… (--family {'|'.join(kinds)})"
        )
    return (possible.pop() if len(possible) == 1 else ""), variants[0]


def _possible_families(lowrank: LowRank) -> set[str]:
    return possible_families(
        {
            (component, layer): Shape(a.shape[0], b.shape[1])
            for component, layers in lowrank.items()
            for layer, (a, b) in layers.items()
        }
    )


def _shapes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {key: tensor.shape for key, tensor in tensors.items()}


def _base(adapters: Sequence[Adapter]) -> dict[str, str]:
    """The base model's name and digest, from the first adapter that has a digest."""
    info = next(
        (adapter.info for adapter in adapters if adapter.info.base_digest), adapters[0].info if adapters else None
    )
    return {"base_name": info.base_name if info else "", "base_digest": info.base_digest if info else ""}


def _token_files(path: Path, adapters: Sequence[Adapter], dtype: np.dtype) -> dict[Path, dict[str, np.ndarray]]:
    """The tensors of each token's two files: one for diffusers, and one for A1111 and ComfyUI."""
    second = dict(ordered_tokens(adapters, "text_encoder_2"))
    files = {}
    for token, vectors in ordered_tokens(adapters):
        file = embedding_path(path, token)
        files[file] = embedding_tensors(token, vectors, dtype, second.get(token))
        other = embeddings_folder(path) / f"{token.strip('<>')}.safetensors"
        files[other] = a1111_tensors(vectors, dtype, second.get(token))
    return files


def _check_options(path: Path, layout: str, dtype: str, family: str | None) -> None:
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}; this version writes {', '.join(LAYOUTS)}")
    if dtype not in DTYPES:
        raise UserError(f"cannot export as {dtype!r}; choose one of {', '.join(DTYPES)}")
    if family not in (None, *FAMILIES):
        raise UserError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors, or PyTorch programs will not read it")
