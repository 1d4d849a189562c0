"""Plain averaging: every concept has the weight 1/N."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from blocklora_jax.adapters.adapter import Adapter
from merge.compose import Params, compose
from merge.methods.method import from_params


def average(
    params: Params, adapters: Sequence[Adapter], weights: Sequence[Any] | None = None, *, check_base: bool = True
) -> Params:
    """`params` + the mean of all adapters' changes, each times its weight (default 1). Tokens are appended.

    Raises: UserError like `compose`, except that the adapters may own the same weights.

    Source: federated averaging (arXiv 1602.05629).
    """
    share = 1.0 / max(1, len(adapters))
    shares = [share] * len(adapters) if weights is None else [share * weight for weight in weights]
    return compose(params, adapters, shares, allow_overlap=True, check_base=check_base)


merge_by_average = from_params(average)
