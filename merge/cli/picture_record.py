"""The record in a picture's file that says how to make it again. It holds no paths of this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import blocklora_jax
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.sampling import Sampling
from merge.cli.options import MergeOptions
from merge.cli.picture_cells import Cell

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion

RECORD = "blocklora"  # the keyword of the PNG's text chunk
VERSION = 1


def picture_record(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    options: MergeOptions,
    cells: Sequence[Cell],
    size: tuple[int, ...],
) -> str:
    """JSON with all that the pictures depend on.

    pictures: in the order of the grid. index: the picture's noise is that of picture `index` of `seed`. adapters: the
    file's SHA-256, and its weight in each picture. size: height and width in pixels.
    """
    height, width = size
    record = {
        "version": VERSION,
        "program": f"blocklora_jax {blocklora_jax.__version__}",
        "base": {"name": sd.checkpoint.public_name, "digest": _base_digest(adapters, options)},
        "method": options.method,
        "method_settings": asdict(options.method_settings),
        "adapters": [
            {"name": adapter.name, "trigger": adapter.info.trigger, "sha256": _sha256(path)}
            for adapter, path in zip(adapters, options.files, strict=True)
        ],
        "sampling": asdict(_sampling(options)),
        "height": height,
        "width": width,
        "negative_prompt": options.negative_prompt,
        "image_sha256": None if options.image is None else _sha256(options.image),
        "mask_sha256": None if options.mask is None else _sha256(options.mask),
        "side_by_side": options.side_by_side,
        "refine": options.refine,
        **{name: list(texts) for name in ("block_weights", "weight_by_step") if (texts := getattr(options, name))},
        "seed": options.seed,
        "pictures": [_picture(cell, adapters) for cell in cells],
    }
    return json.dumps(record)


def _base_digest(adapters: Sequence[Adapter], options: MergeOptions) -> str:
    """The digest of the base, which merging has checked against that in the adapters; "" if it has not."""
    known = (adapter.info.base_digest for adapter in adapters if adapter.info.base_digest)
    return next(known, "") if options.check_base else ""


def _sampling(options: MergeOptions) -> Sampling:
    return Sampling(**{name: getattr(options, name) for name in Sampling.__dataclass_fields__})


def _picture(cell: Cell, adapters: Sequence[Adapter]) -> dict[str, Any]:
    places, weights = cell.variant
    return {
        "prompt": cell.prompt,
        "index": cell.index,
        "weights": {adapters[place].name: weight for place, weight in zip(places, weights, strict=True)},
    }


def _sha256(path: Path) -> str:
    with path.expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
