"""The directions of a model's text features, the strongest first, and codewords for blocks of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.basis import (
    Basis,
    Codewords,
    TextBasis,
    basis_digest,
    codewords_digest,
    load_text_basis,
    save_basis,
)
from blocklora_jax.adapters.token_side import whitened_directions
from blocklora_jax.diffusion.text_chunks import encode_in_chunks
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.basis_file import local_basis
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.prompts.random_prompts import PromptWords, make_random_prompts
from blocklora_jax.prompts.shares import RandomPromptShares
from train.basis_options import BasisOptions
from train.codeword_settings import CodewordSettings
from train.codewords import codeword_prompts, optimise_codewords, speech_ratios, split_words


def text_moments(sd: StableDiffusion, words: PromptWords, count: int, seed: int = 0) -> Float[np.ndarray, "d d"]:
    """x^T x in fp64, summed over the text states x at all positions of `count` ordinary prompts.

    The states are those that cross-attention reads. The prompts have no negative tokens.
    """
    shares = RandomPromptShares(negative=0.0, own_class=0.0)
    ids = make_random_prompts(sd.tokenizer, words, shares, words.subjects[0], ("<x>", 0), seed, count=count).ids
    total = 0.0
    for text in encode_in_chunks(sd.models, sd.params, ids):
        x = np.asarray(text.states, np.float64).reshape(-1, text.states.shape[-1])
        total = total + x.T @ x
    return np.asarray(total)


def energies_along(basis: Basis, moments: Float[np.ndarray, "d d"]) -> Float[np.ndarray, " d"]:
    """The sum of (u . x)^2 along each direction u, fp64, from moments x^T x."""
    directions = np.asarray(basis, np.float64)
    return np.maximum(np.einsum("ij,ik,kj->j", directions, moments, directions), 0.0)


def principal_directions(moments: Float[np.ndarray, "d d"]) -> tuple[Float[np.ndarray, " d"], Basis]:
    """The eigenvalues of `moments` (energies), and its eigenvectors as orthonormal columns, the strongest first."""
    energies, vectors = np.linalg.eigh(moments)
    return energies[::-1], vectors[:, ::-1]


def write_text_basis(options: BasisOptions) -> None:
    """Write the file that `options` describe, and print what is in it.

    Raises: UserError for more blocks than directions, or a basis to extend that cannot be used as `options` ask.
    """
    sd = StableDiffusion.from_pretrained(options.model)
    digest, words = sd.digest, words_for(sd.checkpoint.name)
    old = load_text_basis(local_basis(str(options.extend)), digest) if options.extend else None
    codewords = {} if old is None else dict(old.codewords)
    missing = _missing_counts(options, codewords)
    _require_directions(sd.models.unet.config.cross_attention_dim, missing)
    if old is None or old.energies is None:
        moments = text_moments(sd, words, options.prompts, options.seed)
        basis = principal_directions(moments)[1] if old is None else old.directions
        energies = energies_along(basis, moments) / (options.prompts * sd.tokenizer.encode([""]).shape[-1])
    else:
        basis, energies = old.directions, old.energies
    for count in missing:
        codewords[count] = _make_codewords(sd, basis, energies, words, count, options.codewords)
    save_basis(options.out, TextBasis(basis, energies, codewords), digest)
    strongest = np.searchsorted(np.cumsum(energies) / energies.sum(), 0.95) + 1
    print(
        f"wrote {options.out}: {len(basis)} directions, {basis_digest(basis)}; the {strongest} strongest hold 95 % of"
        " the energy of ordinary text"
    )


def _missing_counts(options: BasisOptions, kept: Mapping[int, Codewords]) -> tuple[int, ...]:
    """The numbers of blocks for which there are no codewords yet. Those that the extended basis has are `kept`.

    Raises: UserError if codewords that are kept were to be made in another way.
    """
    wanted = options.blocks or ()
    for count in sorted(kept.keys() & set(wanted)):
        if options.codewords != CodewordSettings():
            raise UserError(
                f"--extend keeps the codewords for {count} blocks of {options.extend}, on which adapters and registries"
                f" rely: leave out --blocks {count} or --codewords.*, or make a new basis without --extend"
            )
        print(f"{count} codewords, {codewords_digest(kept[count])}: kept, as {options.extend} has them")
    return tuple(count for count in wanted if count not in kept)


def _require_directions(width: int, blocks: tuple[int, ...]) -> None:
    if wrong := [count for count in blocks if count > width]:
        raise UserError(f"--blocks {wrong[0]}: the text has {width} directions, too few for each block to have one")


def _make_codewords(
    sd: StableDiffusion,
    basis: Basis,
    energies: Float[np.ndarray, " d"],
    words: PromptWords,
    num_blocks: int,
    settings: CodewordSettings,
) -> Codewords:
    """The codewords for `num_blocks` slots, rounded to fp16 as in files. Prints how well they do on other words."""
    whitened, (used, held_out) = whitened_directions(basis, energies), split_words(words)
    tokens = optimise_codewords(sd, whitened, num_blocks, codeword_prompts(used, 64, settings.seed), settings)
    rounded = {part: np.asarray(each, np.float16).astype(np.float32) for part, each in tokens.items()}
    prompts = codeword_prompts(held_out, 16, settings.seed + 1)
    ratios, rest = (speech_ratios(sd, rounded, whitened, prompts, own=own) for own in ("token", "rest"))
    print(
        f"{num_blocks} codewords, {codewords_digest(rounded)}: on held-out words, the directions of the slot have "
        f"{np.median(ratios):.0f} times the energy of all others at the token (median; smallest {ratios.min():.0f}, "
        f"largest {ratios.max():.0f}), and {np.median(rest):.0f} times from the token on (ordinary text: 1)"
    )
    return rounded
