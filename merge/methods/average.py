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

    >>> import jax, numpy as np
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> averaged, summed = average(params, adapters), compose(params, adapters, weights=[0.5, 0.5])
    >>> all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(averaged), jax.tree.leaves(summed), strict=True))
    True
    """
    share = 1.0 / max(1, len(adapters))
    shares = [share] * len(adapters) if weights is None else [share * weight for weight in weights]
    return compose(params, adapters, shares, allow_overlap=True, check_base=check_base)


merge_by_average = from_params(average)
