"""The token side of erasure: a concept's token learns to have energy only along its own directions of the text basis.

    e_d = mean over prompts and over positions from the token on of w_d (u_d . x)^2
    L_token = mu relu(log(others / own) + tau) + relu(|token| / natural - limit)^2

own: the mean of e_d over the directions of the concept's slots. others: the mean over all other directions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from blocklora_jax.adapters.row_weights import RowWeights, weigh_rows
from blocklora_jax.models.precision import at_least_float32

# Constants of a base model are NumPy arrays.
Rows = Array | np.ndarray

# The least share of ordinary text's energy that a direction is given. Less is rounding error, such as along the
# direction that a layer norm leaves empty.
_FAINTEST = 1e-7
# Keeps the logarithm finite where there is no energy. Ordinary text has the energy 1 along every direction.
_SILENCE = 1e-8


def whitened_directions(basis: Float[np.ndarray, "d d"], energies: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    """sqrt(w_d) u_d as columns, fp32, so that e_d is the square of one product.

    basis: orthonormal columns u_d. energies: mean energy of ordinary text along each direction; w_d = 1 / energy.
    """
    energies = np.asarray(energies, np.float64)
    return (basis / np.sqrt(np.maximum(energies, _FAINTEST * energies.sum()))).astype(np.float32)


def direction_energies(
    states: Float[Array, "b t d"], start: Int[Rows, " b"], whitened: Float[Rows, "d d"], row_weights: RowWeights = None
) -> Float[Array, " d"]:
    """e_d, fp32 [d]. It is 1 for ordinary text.

    states: the text states of the prompts that cross-attention reads. start: the position of the token in each prompt.
    whitened: see `whitened_directions`. row_weights: of the prompts.
    """
    onward = jnp.arange(states.shape[1])[None] >= jnp.asarray(start)[:, None]
    return counted_energies(states, onward, whitened, row_weights)


def counted_energies(
    states: Float[Array, "b t d"],
    counted: Bool[Rows, "b t"],
    whitened: Float[Rows, "d d"],
    row_weights: RowWeights = None,
) -> Float[Array, " d"]:
    """`direction_energies` of the counted positions; each prompt has one at least."""
    energy = jnp.square(jnp.matmul(at_least_float32(states), whitened, precision="highest"))
    counted = jnp.asarray(counted).astype(jnp.float32)
    # First the mean for each prompt, so that a token near the end counts as much as one at the beginning.
    of_each = jnp.einsum("btd,bt->bd", energy, counted) / counted.sum(1, keepdims=True)
    return weigh_rows(of_each, row_weights).mean(0)


def own_and_others(energies: Float[Array, " d"], owned: Bool[Rows, " d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean energy over the `owned` directions, and over all others."""
    mask = jnp.asarray(owned, jnp.float32)
    return (energies * mask).sum() / mask.sum(), (energies * (1 - mask)).sum() / jnp.maximum((1 - mask).sum(), 1)


def log_ratio(own: Float[Array, ""], others: Float[Array, ""]) -> Float[Array, ""]:
    """log(others / own): 0 for a token like ordinary text, log(1 / 40) if `own` is 40 times as large as `others`."""
    return jnp.log(others + _SILENCE) - jnp.log(own + _SILENCE)


def hinge(own: Float[Array, ""], others: Float[Array, ""], tau: float) -> Float[Array, ""]:
    """relu(log(others / own) + tau): 0 if own / others is at least e^tau."""
    return jax.nn.relu(log_ratio(own, others) + tau)


def norm_excess(tokens: Float[Array, "*k v d"], natural: Float[Array, ""], limit: float) -> Float[Array, "*k"]:
    """The mean of relu(|token| / natural - limit)^2 over the v vectors. natural: see `natural_norm`."""
    # The square root has no gradient at 0.
    norms = jnp.sqrt(jnp.square(at_least_float32(tokens)).sum(-1) + 1e-12)
    return jnp.square(jax.nn.relu(norms / natural - limit)).mean(-1)


def natural_norm(table: Float[Rows, "n d"]) -> Float[Array, ""]:
    """The median length of a text encoder's token embeddings, fp32."""
    return jnp.median(jnp.linalg.norm(jnp.asarray(table, jnp.float32), axis=1))


def token_side_loss(
    energies: Float[Array, " d"], owned: Bool[Rows, " d"], tau: float, token_energies: Float[Array, " d"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The hinge (without mu), and own / others for the log. energies: see `direction_energies`.

    token_energies: where own energy is that of the token's own positions only.
    """
    own, others = own_and_others(energies, owned)
    if token_energies is not None:
        own, _ = own_and_others(token_energies, owned)
    return hinge(own, others, tau), jax.lax.stop_gradient(jnp.exp(-log_ratio(own, others)))


def token_starts(ids: Int[Rows, "b t"], rows: int) -> Int[Array, " b"]:
    """The position of the first concept token in each prompt.

    rows: number of rows of the token table without concept tokens. Their ids begin there.

    For a prompt without a concept token it is the last position.
    """
    is_concept = jnp.asarray(ids) >= rows
    return jnp.where(is_concept.any(1), is_concept.argmax(1), ids.shape[1] - 1)


def owned_mask(directions: Int[np.ndarray, " s"], count: int) -> Bool[np.ndarray, " count"]:
    """A mask of `count` directions, True for those of a slot (see `Partition.directions`)."""
    mask = np.zeros(count, bool)
    mask[directions] = True
    return mask
