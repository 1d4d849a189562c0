"""The old place of what must hold before adapters are merged; until 0.2. See `blocklora_jax.composing.check`."""

from blocklora_jax.composing.check import (
    adapter_problems,
    check_adapters,
    check_merge,
    misfit_problems,
    params_problems,
    raise_problems,
)
from blocklora_jax.composing.overlap import colliding_layers, overlapping_layers, own_blocks, shared_layers
from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.layouts.token_tables import TOKEN_TABLES

__all__ = [
    "TOKEN_TABLES",
    "adapter_problems",
    "check_adapters",
    "check_merge",
    "colliding_layers",
    "leaf_path",
    "misfit_problems",
    "overlapping_layers",
    "own_blocks",
    "params_problems",
    "raise_problems",
    "shared_layers",
]
