"""How ordinary text's energy is shared out among the directions of its basis."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Float, Int

from benchmarks.towers.tower import Tower
from blocklora_jax.adapters.basis import Basis
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.prompts.random_prompts import PromptWords
from train.text_basis import energies_along, principal_directions, text_moments

SHARES = (0.5, 0.95, 0.99)


def share_counts(energies: Float[np.ndarray, " d"]) -> dict[str, int]:
    """How many directions, the strongest first, hold each of `SHARES` of all energy.

    >>> share_counts(np.array([6.0, 3.0, 1.0, 0.0]))
    {'0.5': 1, '0.95': 3, '0.99': 3}
    """
    held = np.cumsum(np.sort(energies)[::-1]) / energies.sum()
    # A sum that is a rounding error short of a share holds it.
    return {str(share): int(np.searchsorted(held, share - 1e-12)) + 1 for share in SHARES}


def prompt_spectrum(tower: Tower, words: PromptWords, prompts: int) -> tuple[Basis, Float[np.ndarray, " d"]]:
    """Directions and energies as `python -m train.basis` has them."""
    moments = text_moments(tower, words, prompts)
    positions = prompts * tower.tokenizer.encode([""]).shape[-1]
    return _spectrum(moments, positions)


def text_spectrum(tower: Tower, ids: Int[np.ndarray, "n t"]) -> tuple[Basis, Float[np.ndarray, " d"]]:
    """The same of any text."""
    states = jax.jit(lambda params, ids: encode_text(tower.models, params, ids).states)(tower.params, ids)
    flat = np.asarray(states, np.float64).reshape(-1, states.shape[-1])
    return _spectrum(flat.T @ flat, len(flat))


def _spectrum(moments: Float[np.ndarray, "d d"], positions: int) -> tuple[Basis, Float[np.ndarray, " d"]]:
    basis = principal_directions(moments)[1]
    return basis, energies_along(basis, moments) / positions
