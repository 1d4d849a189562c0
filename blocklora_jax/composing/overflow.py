"""Finds merged values that no longer fit their type, and says what to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.finite import largest_change
from blocklora_jax.checks.finite import is_finite
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params

# Changes up to this size cannot come near the largest float32, 3.4e38.
_LARGE = 1e30


def may_overflow(adapters: Sequence[Adapter], weights: Sequence[Any]) -> bool:
    """Whether changes are so large that sums in float32 may be infinite. Reads only the factors. False inside jit."""
    known = [(a, w) for a, w in zip(adapters, weights, strict=True) if not isinstance(w, Tracer)]
    return any(not largest_change(adapter) * abs(float(weight)) <= _LARGE for adapter, weight in known)


def check_overflow(params: Mapping[str, Any], merged: Mapping[str, Any], paths: Collection[str], every: bool) -> None:
    """Raises UserError naming the leaves of `merged` that are not finite. Says if they were not finite in `params`.

    paths: the leaves that adapters changed. every: check all of these leaves; otherwise only those in half precision,
    because only these overflow in ordinary use. Checks nothing inside jit.
    """
    after = flatten_params(merged)
    checked = {path: after[path] for path in paths if every or after[path].dtype.itemsize < 4}
    wrong = [path for path, finite in _finite(checked).items() if not finite]
    if not wrong:
        return
    path, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    if not _finite({path: flatten_params(params)[path]})[path]:
        raise UserError(f"cannot merge: {path}{more} already has NaN or infinity in the base: fetch the model again")
    dtype = np.dtype(after[path].dtype).name
    wider = "" if dtype == "float32" else ", or merge into params in float32"
    raise UserError(f"cannot merge: {path}{more} gets values beyond the range of {dtype}: give smaller weights{wider}")


def _finite(leaves: Mapping[str, Any]) -> dict[str, bool]:
    """By path, whether a leaf is finite. Arrays on devices are checked there, and all results are fetched together."""
    verdicts = {}
    for path, leaf in leaves.items():
        if not isinstance(leaf, Tracer):
            verdicts[path] = _all_finite(leaf) if isinstance(leaf, jax.Array) else is_finite(leaf)
    return {path: bool(finite) for path, finite in jax.device_get(verdicts).items()}


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()
