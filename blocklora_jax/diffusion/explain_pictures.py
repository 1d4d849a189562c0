"""Explains why pictures have NaN or infinity, and so would be black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from blocklora_jax.checks.finite import is_finite, nonfinite_leaves
from blocklora_jax.diffusion.models import Models


def explain_pictures(
    models: Models, params: Mapping[str, Any], latents: Any, guidance_scale: Any, wrong: Sequence[int] | np.ndarray
) -> str:
    """One line that names the failed pictures and, if it can be found, the cause. wrong: their indices, from 0."""
    shown = ", ".join(str(i + 1) for i in list(wrong)[:4]) + ("…" if len(wrong) > 4 else "")
    head = f"picture {shown} of {len(latents)} came out as NaN or infinity, which would be black"
    if not is_finite(latents):
        return f"{head}: the given latents are not finite"
    # This reads all parameters, so it is done only after a failure.
    if bad := nonfinite_leaves(params):
        more = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        return f"{head}: {bad[0]}{more} of the model is not finite; fetch the base again, or merge with smaller weights"
    half = [name for name, module in models._asdict().items() if _computes_in_half(module)]
    if half:
        return f"{head}: {' and '.join(half)} overflowed in half precision; load the model with dtype float32"
    return (
        f"{head}: the model's parameters are finite, but its outputs overflow; merge with smaller weights, "
        f"or use a guidance_scale nearer to 1 than {guidance_scale}"
    )


def _computes_in_half(module: Any) -> bool:
    dtype = getattr(module, "dtype", None)
    return dtype is not None and jnp.dtype(dtype).itemsize < 4
