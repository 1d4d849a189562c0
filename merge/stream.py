"""Merges any number of adapters into a model from disk to disk: one tensor at a time, so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import ordered_tokens, token_counts
from blocklora_jax.adapters.file import is_ours
from blocklora_jax.checkpoints.diffusers import load_folder, save_folder
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checkpoints.weights import aligned_copy
from blocklora_jax.composing.check import check_merge
from blocklora_jax.composing.compose import canonical_order, kernel_blocks, merge_kernel
from blocklora_jax.composing.grid import merge_on_grid
from blocklora_jax.composing.overflow import check_overflow
from blocklora_jax.composing.overlap import layers_on_grid, overlapping_layers
from blocklora_jax.errors import UserError
from blocklora_jax.io.tensor_file import forget_pages, read_metadata, read_tensor_at
from blocklora_jax.io.tree_paths import flatten_params, unflatten_params
from blocklora_jax.layouts.low_rank import LoRAPair
from blocklora_jax.layouts.token_tables import TOKEN_TABLES
from blocklora_jax.layouts.torch_names import to_flax, to_torch
from merge.manifest import MergeManifest, pairs_digest, without_values

_KERNEL = "/kernel"


class Outline(NamedTuple):
    """An adapter without the values of its pairs, which are in `file`. digest: `pairs_digest` of these."""

    file: Path
    adapter: Adapter
    digest: str


def merge_streamed(
    model: str | Path,
    files: Sequence[Path | Outline],
    out: Path,
    weights: Sequence[float] | None = None,
    *,
    dtype: str = "float32",
    variant: str | None = None,
    allow_overlap: bool = False,
    check_base: bool = True,
    verify: bool = True,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Adapter]:
    """Write the folder `out` that `sd.with_adapters(adapters, weights).save(out)` writes, byte for byte.

    Neither the model nor all adapters are ever in memory as a whole: of each tensor of the model the parts of the
    adapters that change it are read, merged and written.

    model: a Diffusers folder or a hub id. files: adapter files of this program, or their outlines, whose adapters may
    have other names and triggers than the files. progress: called with a line for each component. Gives the adapters
    without values.

    Raises: UserError as `compose` and `save` do, and for LoRAs of other programs.
    """
    base = load_folder(model, variant=variant, verify=verify, mapped=True)
    outlines = [file if isinstance(file, Outline) else read_outline(Path(file), verify) for file in files]
    adapters = [outline.adapter for outline in outlines]
    if wrong := [str(outline.file) for outline in outlines if outline.adapter.vectors]:
        raise UserError(f"{wrong[0]} changes norms or biases, which cannot be streamed: leave out --stream")
    factors = check_merge(base.params, adapters, weights, allow_overlap=allow_overlap, check_base=check_base)
    merger = _Merger(base.params, adapters, [outline.file.expanduser() for outline in outlines], factors)
    manifest = MergeManifest(
        base_name=base.name, base_digest=params_digest(base.params), dtype=dtype,
        adapters=tuple(without_values(adapter) for adapter in adapters), weights=tuple(factors),
        digests=tuple(outline.digest for outline in outlines),
    )  # fmt: skip
    seen: set[str] = set()

    def fill(part: str, key: str, tensor: np.ndarray) -> np.ndarray:
        if part not in seen:
            seen.add(part)
            progress(f"writing {part}")
        return merger.merged(part, key, tensor)

    save_folder(
        out, replace(base, params=merger.placeholders()), tokens=token_counts(adapters), dtype=dtype,
        merge=manifest.to_json(), overwrite=overwrite, fill=fill,
    )  # fmt: skip
    return adapters


class _Merger:
    """Merges one tensor at a time. adapters: without values; their pairs are read from `files`."""

    def __init__(
        self, params: Mapping[str, Any], adapters: Sequence[Adapter], files: Sequence[Path], weights: Sequence[float]
    ) -> None:
        self._params, self._adapters, self._files, self._weights = params, list(adapters), list(files), list(weights)
        self._order = canonical_order(adapters, weights)
        self._grid = layers_on_grid(adapters)
        adapted = {f"{c}/{layer}" for adapter in adapters for c, layers in adapter.lora.items() for layer in layers}
        self._adapted = adapted
        # Looking for pairs of adapters that share weights takes long for many, and on the grid it makes no difference.
        self._overlaps = overlapping_layers(adapters) if adapted - self._grid else set()
        self._rows = {path: [v for _, v in ordered_tokens(adapters, part)] for part, path in TOKEN_TABLES.items()}

    def placeholders(self) -> Mapping[str, Any]:
        """The parameters, with token tables of the new shapes."""
        flat = flatten_params(self._params)
        for path, rows in self._rows.items():
            if rows:
                table = flat[path]
                shape = (len(table) + sum(map(len, rows)), table.shape[1])
                flat[path] = np.broadcast_to(np.zeros((), table.dtype), shape)
        return unflatten_params(flat)

    def merged(self, part: str, key: str, tensor: np.ndarray) -> np.ndarray:
        """The merged tensor, in PyTorch's layout. tensor: the base's, or the placeholder of a token table."""
        [(path, array)] = flatten_params({part: to_flax(part, {key: tensor})}).items()
        layer = path.removesuffix(_KERNEL)
        if rows := self._rows.get(path):
            table = flatten_params(self._params)[path]
            array = np.concatenate([aligned_copy(path, table, "float32"), *rows])
        else:
            array = aligned_copy(path, array, "float32")
            forget_pages(tensor)
            if layer != path and layer in self._adapted:
                array = self._kernel(part, layer, array)
        [leaf] = to_torch(part, unflatten_params({path: array})[part]).values()
        return np.asarray(leaf)

    def _kernel(self, part: str, layer: str, kernel: np.ndarray) -> np.ndarray:
        name = layer.removeprefix(f"{part}/")
        blocks = []
        for i in self._order:
            adapter = self._adapters[i]
            if name in adapter.lora.get(part, {}):
                alone = replace(adapter, lora={part: {name: _read_pair(self._files[i], adapter, part, name)}})
                blocks += kernel_blocks([alone], [self._weights[i]])[layer + _KERNEL]
        with np.errstate(over="ignore", invalid="ignore"):
            if layer in self._grid:
                result = merge_on_grid(kernel, [(block.a, block.b) for block in blocks])
            else:
                result = merge_kernel(kernel, blocks, layer in self._overlaps)
        check_overflow({layer: kernel}, {layer: result}, [layer], every=True)
        return np.asarray(result)


def check_streamable(path: Path) -> None:
    """Raises UserError for a LoRA of another program. A file that cannot be read is passed over here."""
    try:
        ours = is_ours(read_metadata(path, "adapter file"))
    except UserError:
        return
    if not ours:
        raise UserError(
            f"{path} is a LoRA of another program, which cannot be streamed: leave out --stream, or convert it"
        )


def read_outline(path: Path, verify: bool = True) -> Outline:
    """The outline of the adapter in a file of this program. The values are read once, and checked."""
    check_streamable(path)
    adapter = Adapter.load(path, verify)
    return Outline(path, replace(adapter, lora=without_values(adapter).lora), pairs_digest(adapter))


def _read_pair(path: Path, adapter: Adapter, component: str, layer: str) -> LoRAPair:
    """The pair of one layer at full size, as `Adapter.load` gives it."""
    shape = adapter.shapes()[component][layer]
    rows, columns = adapter.info.support(component, layer, shape)
    a, b = (
        read_tensor_at(path, f"lora/{component}/{layer}/{name}").astype(np.float32) for name in ("lora_A", "lora_B")
    )
    full_a, full_b = np.zeros((shape[0], a.shape[1]), np.float32), np.zeros((b.shape[0], shape[1]), np.float32)
    full_a[rows], full_b[:, columns] = a, b
    return LoRAPair(full_a, full_b)
