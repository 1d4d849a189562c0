"""Where a merged array lies: on the devices, and in the mesh, of the array that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
from jax.sharding import AxisType


def any_mesh(function: Callable[..., Any], like: Any) -> Callable[..., Any]:
    """`function`, with a result sharded as its first argument `like`, also where the mesh has explicit axes."""
    sharding = jax.typeof(like).sharding
    explicit = AxisType.Explicit in sharding.mesh.axis_types
    return cast(Any, jax.sharding.auto_axes)(function, out_sharding=sharding) if explicit else function


def placed_like(merged: jax.Array, original: Any) -> jax.Array:
    """`merged` where and how `original` lies on the devices."""
    if not isinstance(original, jax.Array) or merged.sharding == original.sharding:
        return merged
    return jax.device_put(merged, original.sharding)
