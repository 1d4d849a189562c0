"""The initial parameters of the pocket model's networks: at the start every residual branch gives zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from blocklora_jax.io.tree_paths import leaf_path

_LAST_OF_BRANCH = re.compile(r"(resnets_\d+/conv2|attentions_\d+/proj_out|attentions_\d+/proj_attn)/kernel$")


def silence_branches(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the last kernel of every residual block and attention set to zero.

    Source: zero initialisation as in ADM (arXiv 2105.05233).
    """

    def silence(path: Any, leaf: jax.Array) -> jax.Array:
        name = leaf_path(path)
        return jnp.zeros_like(leaf) if _LAST_OF_BRANCH.search(name) else leaf

    return jax.tree_util.tree_map_with_path(silence, params)
