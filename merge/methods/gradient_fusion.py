"""Gradient fusion: finds one change of every layer that acts on each concept's inputs like the concept's own change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.composing.check import check_merge
from merge.compose import Params, compose
from merge.methods.joint_equations import Grams, fit_groups, fit_to_inputs
from merge.methods.measured import merge_measured
from merge.methods.method import Merged, NoSettings

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion


@dataclass(frozen=True, kw_only=True)
class GradientFusionSettings(NoSettings):
    """Settings of gradient fusion."""

    ridge: float = 1e-4
    """Weight of the penalty on large changes, as a share of the inputs' mean square."""


def gradient_fusion(
    params: Params,
    adapters: Sequence[Adapter],
    grams: Grams,
    weights: Sequence[Any] | None = None,
    *,
    ridge: float = 1e-4,
    check_base: bool = True,
) -> Params:
    """`params` where every adapted kernel W becomes W + D, with the D below. Tokens are appended.

        D = argmin  sum_k |X_k (D - w_k dW_k)|^2 + r |D|^2

    Args:
        params, adapters, weights: as for `compose`; the adapters may own the same weights.
        grams: for each adapted layer ("unet/…/to_k"), a list of one matrix X_k^T X_k [n, n] for each adapter, in their
            order. The rows of X_k are the layer's inputs while concept k is drawn.
        ridge: r as a share of the inputs' mean square. It makes D = 0 where no concept has inputs.

    Raises: UserError like `compose`, or naming the layers without matrices of the right number and shape.

    Source: gradient fusion of Mix-of-Show (arXiv 2305.18292); there by L-BFGS, here in closed form.

    If all inputs of both concepts are equally strong in every direction, the result is the mean of the changes:

    >>> import numpy as np
    >>> from blocklora_jax.testing.random_adapter import random_adapter
    >>> from blocklora_jax.testing.tiny_model import tiny_params
    >>> params = tiny_params()
    >>> adapters = [random_adapter("ada", params, slots=(0,)), random_adapter("bob", params, slots=(1,))]
    >>> shapes = {f"{part}/{layer}": n for part, own in adapters[0].shapes().items() for layer, (n, _) in own.items()}
    >>> grams = {layer: [np.eye(n)] * 2 for layer, n in shapes.items()}
    >>> fused, mean = gradient_fusion(params, adapters, grams, ridge=0.0), compose(params, adapters, [0.5, 0.5])
    >>> kernels = [p["unet"]["mid_block"]["attentions_0"]["proj_in"]["kernel"] for p in (fused, mean)]
    >>> bool(np.allclose(*kernels, atol=1e-6))
    True
    """
    check_merge(params, adapters, weights, allow_overlap=True, check_base=check_base)
    # D is linear in the changes, so the weights can be applied to its parts.
    parts = fit_to_inputs(adapters, grams, ridge=ridge)
    return compose(params, parts, weights, allow_overlap=True, check_base=False)


def merge_by_gradient_fusion(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    weights: Sequence[Any] | None,
    settings: GradientFusionSettings,
    *,
    check_base: bool = True,
) -> Merged:
    """Gradient fusion with the common signature. The inputs are measured on prompts of each concept."""
    fit = partial(fit_groups, adapters, erase_weight=None, ridge=settings.ridge)
    return merge_measured(sd, adapters, weights, fit, check_base)
