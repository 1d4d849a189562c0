"""Multiplies an adapter's scale into its pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from blocklora_jax.checks.finite import is_finite, narrow


def scaled(name: str, a: Any, factor: float) -> np.ndarray:
    """a * factor in fp32. Raises UserError naming the layer if a value is beyond the range of fp32."""
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.asarray(a) * np.float32(factor)
    if not is_finite(product):
        narrow(name, np.asarray(a, np.float64) * factor, product.dtype)
    return product
