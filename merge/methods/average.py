"""Plain averaging: every concept at 1/N of its strength."""

from __future__ import annotations

from collections.abc import Sequence

from blocklora_jax.adapters.adapter import Adapter
from merge.compose import Params, compose


def average(params: Params, adapters: Sequence[Adapter], *, check_base: bool = True) -> Params:
    """`params` + mean of all adapters' changes, tokens appended. Source: federated averaging (arXiv 1602.05629)."""
    share = 1.0 / max(1, len(adapters))
    return compose(params, adapters, [share] * len(adapters), allow_overlap=True, check_base=check_base)
