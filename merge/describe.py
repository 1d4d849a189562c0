"""What is in an adapter, and what several have in common, as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from blocklora_jax.adapters.lora import Adapter
from merge.check import shared_layers


def describe(adapter: Adapter) -> str:
    """The adapter's description, one "field: value" a line."""
    info = adapter.info
    fields = {
        "concept": f"{info.name} ({info.kind}, class noun {info.class_noun!r})",
        "trigger": info.trigger,
        "tokens": ", ".join(f"{token} ({len(vectors)} vectors)" for token, vectors in sorted(adapter.tokens.items())),
        "base": f"{info.base_name or 'unnamed'}, digest {info.base_digest[:12] or 'not recorded'}",
        "blocks": _blocks(adapter),
        "rank": f"{info.rank}, alpha {info.alpha:g}",
        "layers": "; ".join(f"{len(layers)} of {component}" for component, layers in adapter.lora.items()),
        "training": info.training,
    }
    return "\n".join(f"{name + ':':<10}{value or 'none'}" for name, value in fields.items())


def overlap_report(adapters: Sequence[Adapter]) -> list[str]:
    """One line for each pair of adapters that own the same weights."""
    lines = []
    for one, other in combinations(adapters, 2):
        layers = shared_layers(one, other)
        if layers:
            lines.append(f"{one.name!r} and {other.name!r} are summed where they overlap, in {len(layers)} layers")
    return lines


def _blocks(adapter: Adapter) -> str:
    partition = adapter.info.partition
    if partition is None:
        return "none: an ordinary LoRA, which overlaps every other"
    slots = ", ".join(str(slot) for slot in adapter.info.slots)
    return f"slots {slots} of {partition.num_blocks}, axis {partition.axis!r}, seed {partition.seed}"
