"""Descriptions of adapters and of their overlaps, as text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.overlap import colliding_layers


def describe(adapter: Adapter) -> str:
    """The adapter's description, with one "field: value" on each line."""
    info = adapter.info
    fields = {
        "concept": _concept(adapter),
        "trigger": info.trigger,
        "tokens": ", ".join(f"{token} ({len(vectors)} vectors)" for token, vectors in sorted(adapter.tokens.items())),
        "base": f"{info.base_name or 'unnamed'}, digest {info.base_digest[:12] or 'not recorded'}",
        "blocks": _blocks(adapter),
        "rank": _rank(adapter),
        "layers": "; ".join(f"{len(layers)} of {component}" for component, layers in adapter.lora.items()),
        **({"norms": f"{len(adapter.vectors)} norms and biases"} if adapter.vectors else {}),
        "training": info.training,
    }
    return "\n".join(f"{name + ':':<10}{value or 'none'}" for name, value in fields.items())


def overlap_report(adapters: Sequence[Adapter]) -> list[str]:
    """A line for each of the first three pairs of adapters that own the same weights, then the number of the others."""
    pairs = [(a, b, len(shared)) for a, b in combinations(adapters, 2) if (shared := colliding_layers(a, b))]
    lines = [f"{a.name!r} and {b.name!r} are summed where they overlap, in {count} layers" for a, b, count in pairs[:3]]
    return lines + ([f"and so are {len(pairs) - 3} other pairs"] if len(pairs) > 3 else [])


def as_arguments(folder: Path, files: Sequence[Path], *, in_order: bool = False) -> str:
    """The files of `folder` as arguments of a command: by a pattern, or by name where that would name others too.

    in_order: whether their order matters; a shell may sort what a pattern finds otherwise.
    """
    if in_order or set(folder.glob("*.safetensors")) - set(files):
        return shlex.join(map(str, files))
    return f"{folder}/*.safetensors"


def _concept(adapter: Adapter) -> str:
    info = adapter.info
    if info.origin:
        return f"{info.name}, a LoRA of another program in the {info.origin} layout"
    return f"{info.name} ({info.kind}, class noun {info.class_noun!r})"


def _rank(adapter: Adapter) -> str:
    ranks = {pair.lora_A.shape[1] for layers in adapter.lora.values() for pair in layers.values()}
    if len(ranks) > 1:
        return f"{min(ranks)} to {max(ranks)}, scales multiplied in"
    return f"{adapter.info.rank}, alpha {adapter.info.alpha:g}"


def _blocks(adapter: Adapter) -> str:
    partition = adapter.info.partition
    if partition is None:
        return "none: an ordinary LoRA, which overlaps every other adapter"
    slots = ", ".join(str(slot) for slot in adapter.info.slots)
    cut = f", in the basis {partition.basis}" if partition.basis else ""
    return f"slots {slots} of {partition.num_blocks}, axis {partition.axis!r}, seed {partition.seed}{cut}"
