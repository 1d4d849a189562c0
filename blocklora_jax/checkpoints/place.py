"""Puts a model's parameters on the device, in the precision in which they are kept there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from blocklora_jax.checks.finite import narrow
from blocklora_jax.io.tree_paths import leaf_path
from blocklora_jax.layouts.token_tables import TOKEN_TABLE


def place_params(
    params: Mapping[str, Any], dtype: DTypeLike | None = None, on_host: Collection[str] = ()
) -> dict[str, Any]:
    """`params` on the default device, those of the components in `on_host` as NumPy arrays.

    dtype: of kernels on the device; None: as they are. Norms, biases and token tables stay as they are. They are small,
    and tokens are trained beside the rows of the table.

    Raises: UserError for a kernel with numbers beyond the range of `dtype`.
    """

    def kept(path: Any, leaf: Any) -> Any:
        name = leaf_path(path)
        is_kernel = leaf.ndim >= 2 and TOKEN_TABLE not in name
        return leaf if dtype is None or not is_kernel else narrow(name, leaf, np.dtype(dtype))

    # One component at a time, so that the host holds one copy of one component at most.
    return {
        name: tree if name in on_host else jax.device_put(jax.tree_util.tree_map_with_path(kept, tree))
        for name, tree in params.items()
    }
