"""Explains why pictures came out as NaN or infinity, which would be black."""

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
    """One line: which pictures failed, and the cause as far as it can be found. wrong: their numbers, from 0."""
    shown = ", ".join(str(i + 1) for i in list(wrong)[:4]) + ("…" if len(wrong) > 4 else "")
    head = f"picture {shown} of {len(latents)} came out as NaN or infinity, which would be black"
    if not is_finite(latents):
        return f"{head}: the latents given to begin with are not finite"
    # Reads all parameters, so only after a failure.
    if bad := nonfinite_leaves(params):
        more = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        return f"{head}: {bad[0]}{more} of the model is not finite; fetch the base again, or merge with smaller weights"
    half = [name for name, module in models._asdict().items() if _computes_in_half(module)]
    if half:
        return f"{head}: {' and '.join(half)} overflowed in half precision; load the model with dtype float32"
    return (
        f"{head}: the numbers of the model are finite, but grow beyond all bounds in it; merge with smaller weights, "
        f"or take a guidance_scale nearer to 1 than {guidance_scale}"
    )


def _computes_in_half(module: Any) -> bool:
    dtype = getattr(module, "dtype", None)
    return dtype is not None and jnp.dtype(dtype).itemsize < 4
