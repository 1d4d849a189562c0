"""Randomized Output Erasure (ROE): an adapter learns to have no output on prompts that do not name its concept.

    L = L_diffusion(concept rows) + lambda * L_erase(random rows)

Source: BlockLoRA (arXiv 2503.08575), our reading; the two forms of L_erase are below.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blocklora_jax.adapters.row_weights import RowWeights, weigh_rows
from blocklora_jax.models.precision import at_least_float32

EraseForm = Literal["layer", "epsilon"]


def output_energy(change: Float[Array, "b *n"], base: Float[Array, "b *n"]) -> Float[Array, " b"]:
    """|dW x|^2 / stopgrad(|W x|^2) of one layer, for each row: fp32 [b], 0 where the adapter has no output.

    change, base: dW x and W x (without bias). There is a ratio for each row, not one of sums, so that the mean does not
    depend on how rows are spread over devices.
    """
    axes = tuple(range(1, change.ndim))
    changed = jnp.sum(jnp.square(at_least_float32(change)), axes)
    reference = jnp.sum(jnp.square(at_least_float32(base)), axes)
    return changed / (jax.lax.stop_gradient(reference) + 1e-8)


def layer_erasure(energies: Float[Array, "layers rows"], row_weights: RowWeights = None) -> Float[Array, ""]:
    """The form `layer`: the mean energy over adapted layers and random rows. It needs no extra forward pass."""
    return weigh_rows(energies, row_weights, axis=1).mean()


def epsilon_erasure(
    adapted: Float[Array, "b h w c"], base: Float[Array, "b h w c"], row_weights: RowWeights = None
) -> Float[Array, ""]:
    """The form `epsilon`: |eps_{W+dW} - stopgrad(eps_W)|^2, mean over elements of the random rows."""
    squared = jnp.square(at_least_float32(adapted) - at_least_float32(jax.lax.stop_gradient(base)))
    return jnp.mean(weigh_rows(squared, row_weights))
