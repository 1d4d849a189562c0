"""Converts nested parameters to and from a flat dict by path. Does not import Flax, and JAX only in `leaf_path`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flatten_params(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested parameters, by path.

    >>> flatten_params({"conv": {"bias": 0, "kernel": 1}})
    {'conv/bias': 0, 'conv/kernel': 1}
    """
    flat = {}
    for name, node in tree.items():
        flat |= flatten_params(node, f"{prefix}{name}/") if isinstance(node, Mapping) else {f"{prefix}{name}": node}
    return flat


def unflatten_params(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters from leaves by path: the inverse of `flatten_params`.

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


def leaf_path(key_path: Sequence[Any]) -> str:
    """A key path of `jax.tree_util` in the form of `flatten_params`: "unet/down_blocks_0/…/kernel".

    >>> import jax
    >>> [(path, leaf)] = jax.tree_util.tree_leaves_with_path({"conv": {"kernel": 1}})
    >>> leaf_path(path)
    'conv/kernel'
    """
    from jax.tree_util import keystr

    return keystr(tuple(key_path), simple=True, separator="/")
