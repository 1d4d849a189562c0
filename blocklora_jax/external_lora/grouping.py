"""Sorts a file's tensors, or their shapes, by layer and part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.algorithms.dora import DORA, MAGNITUDES
from blocklora_jax.external_lora.algorithms.layer import Algorithm
from blocklora_jax.external_lora.algorithms.table import algorithm_of
from blocklora_jax.external_lora.bundled_tokens import is_bundled
from blocklora_jax.external_lora.kinds import SUPPORTED
from blocklora_jax.external_lora.parts import split_name
from blocklora_jax.layouts.dialects import find_layer, find_norm
from blocklora_jax.layouts.families.recognise import Layer as Place

T = TypeVar("T")


@dataclass(frozen=True)
class Groups(Generic[T]):
    """Layers and norms by (component, path), each with its parts; and the names of both in the file."""

    layers: dict[Place, dict[str, T]]
    norms: dict[Place, dict[str, T]]
    heads: set[str]


def group_parts(path: object, tensors: Mapping[str, T]) -> Groups[T]:
    """Sort `tensors`, arrays or shapes. Bundled embeddings are left out.

    Raises: UserError naming tensors of no known layer or part, and layers under two names.
    """
    groups: Groups[T] = Groups({}, {}, set())
    unknown, duplicates = [], []
    for key, tensor in tensors.items():
        if is_bundled(key):
            continue
        head, part = split_name(key, tensors)
        layer, norm = (find_layer(head), find_norm(head)) if part else (None, None)
        place = layer or norm
        if place is None:
            unknown.append(key)
            continue
        groups.heads.add(head)
        parts = (groups.layers if layer else groups.norms).setdefault(place, {})
        duplicates += [key] if part in parts else []
        parts[part] = tensor
    _refuse(path, groups, unknown, duplicates, tensors)
    return groups


def algorithms_of(groups: Groups) -> dict[Place, Algorithm | None]:
    """The kind of each layer; None for one of which only the bias is changed."""
    return {place: algorithm_of(parts) for place, parts in groups.layers.items()}


def _refuse(path: object, groups: Groups, unknown: list[str], duplicates: list[str], tensors: Mapping) -> None:
    if not groups.layers and not groups.norms:
        raise UserError(
            f"{path} is a safetensors file but not a blocklora adapter (no 'blocklora' header), and none of its tensors"
            f" ({', '.join(sorted(unknown)[:3]) or 'none'}) belongs to {_kind(tensors)}that can be read; {SUPPORTED}"
            " are read"
        )
    if unknown:
        raise UserError(
            f"{path} has {len(unknown)} tensors of no known layer or kind ({', '.join(sorted(unknown)[:3])});"
            f" {SUPPORTED} are read"
        )
    if duplicates:
        raise UserError(f"{path} has layers under two names: {', '.join(duplicates[:3])}; it is unclear which is right")


def _kind(tensors: Mapping) -> str:
    """The title of the kind that the parts' names show, for a file with layers of another model."""
    names = {split_name(key, tensors)[1] for key in tensors} - {"", "oft_blocks"}
    kind = algorithm_of(dict.fromkeys(names, ()))
    return f"{DORA if names & set(MAGNITUDES) else kind.title if kind else 'a LoRA'} "
