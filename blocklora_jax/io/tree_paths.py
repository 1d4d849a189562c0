"""Nested parameters to and from a flat dict by path. Needs no Flax, so that `merge` can use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten_params(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their path.

    >>> flatten_params({"conv": {"bias": 0, "kernel": 1}})
    {'conv/bias': 0, 'conv/kernel': 1}
    """
    flat = {}
    for name, node in tree.items():
        flat |= flatten_params(node, f"{prefix}{name}/") if isinstance(node, Mapping) else {f"{prefix}{name}": node}
    return flat


def unflatten_params(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse.

    >>> unflatten_params({"conv/bias": 0, "conv/kernel": 1})
    {'conv': {'bias': 0, 'kernel': 1}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *modules, name = path.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[name] = leaf
    return tree
