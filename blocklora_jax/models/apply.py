"""Running a Flax model whose answer is one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
from jaxtyping import Array


def apply_model(module: nn.Module, params: Mapping[str, Any], *inputs: Any, method: str | None = None) -> Array:
    """The module's answer; linen's own signature allows changed variables beside it, and ours has none."""
    return cast(Array, module.apply({"params": params}, *inputs, method=method))
