"""Merging by methods that look at the layers' inputs, which are measured on prompts of each concept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.check import check_merge
from merge.compose import compose
from merge.methods.joint_fit import measured_groups
from merge.methods.method import Merged

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.input_statistics import InputGroup


def merge_measured(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    fit: Callable[[Iterable[InputGroup]], list[Adapter]],
    check_base: bool,
) -> Merged:
    """The sum of what `fit` makes of the adapters, from inputs that are measured on prompts of each concept."""
    # Checked before the inputs are measured, which takes longer.
    check_merge(sd.params, adapters, weights, allow_overlap=True, check_base=check_base)
    parts = fit(measured_groups(sd, adapters))
    return Merged(compose(sd.params, parts, weights, allow_overlap=True, check_base=False), adapters)
