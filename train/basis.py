"""A basis of a model's text features, for blocks that ordinary text leaves quiet: `python -m train.basis`.

Ordinary text fills its features unevenly: along its eigenvectors a few directions hold almost all of it. Dealt to the blocks in
turn, every block gets as many quiet directions as any other, where hardly anything but a concept's own token speaks; cut
along the features themselves, all blocks are full of ordinary text. Train with `--basis FILE`; adapters that are to be merged
share the file, as they share `--partition-seed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.basis import Basis, basis_digest, save_basis
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.prompts.random_prompts import PromptWords, RandomPromptShares, make_random_prompts


def text_moments(sd: StableDiffusion, words: PromptWords, count: int, seed: int = 0) -> Float[np.ndarray, "d d"]:
    """x^T x in fp64, summed over all positions x of `count` ordinary prompts (no foreign tokens), as cross-attention reads them."""
    shares = RandomPromptShares(foreign=0.0, own_class=0.0)
    ids = make_random_prompts(sd.tokenizer, words, shares, words.subjects[0], ("<x>", 0), seed, count=count).ids
    encode = jax.jit(lambda params, ids: encode_text(sd.models, params, ids).states)
    total, chunk = 0.0, 16
    # The last chunk is filled up with the first prompts: one program serves all.
    for start in range(0, count, chunk):
        states = encode(sd.params, np.take(ids, range(start, start + chunk), axis=0, mode="wrap"))
        x = np.asarray(states, np.float64)[: count - start].reshape(-1, states.shape[-1])
        total = total + x.T @ x
    return np.asarray(total)


def principal_directions(moments: Float[np.ndarray, "d d"]) -> tuple[Float[np.ndarray, " d"], Basis]:
    """Energies of the moments' eigenvectors, and these as orthonormal columns, the strongest first."""
    energies, vectors = np.linalg.eigh(moments)
    return energies[::-1], vectors[:, ::-1]


@dataclass(frozen=True, kw_only=True)
class BasisOptions:
    """Write the eigenvectors of a model's ordinary text, for `--basis`."""

    out: Path
    """The file to write."""
    model: str = "pocket"
    """The base: "pocket", a Diffusers folder, a single file, or a hub id."""
    prompts: int = 512
    """How many random prompts are read."""
    seed: int = 0
    overwrite: bool = False
    """Replace a file that is there already."""

    def __post_init__(self) -> None:
        check_options(self)


def main() -> None:
    """The command line."""
    options = read_options(BasisOptions, description=__doc__, prog="python -m train.basis")
    plan_outputs([Output(options.out, "basis")], [options.model], overwrite=options.overwrite)
    sd = StableDiffusion.from_pretrained(options.model)
    moments = text_moments(sd, words_for(sd.checkpoint.name), options.prompts, options.seed)
    energies, basis = principal_directions(moments)
    save_basis(options.out, basis, params_digest(sd.params))
    held = np.searchsorted(np.cumsum(energies) / energies.sum(), 0.95) + 1
    print(f"wrote {options.out}: {len(basis)} directions, {basis_digest(basis)}; {held} hold 95 % of ordinary text")


if __name__ == "__main__":
    run(main)
