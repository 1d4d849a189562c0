"""Whom an adapter answers that should not: `python -m benchmarks.modular.distractors`.

Adapters that the bench has taught (`--adapters`) read prompts in which other tokens than their own stand: drawn at random around
the class noun, as erasure draws negative tokens where no tokens are known; other concepts' trained ones; draws that resemble those
(with their mean, or as a Gaussian with their covariance too); the trained ones with their coordinates shuffled. Prints each one's
output, |dW x| over |W x|, as a share of what the adapter puts out on its own prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.apply import output_energy
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.diffusion.models import token_table, with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing.probe import with_tokens
from blocklora_jax.prompts.random_prompts import last_token_ids

SCENES = ("", " on a beach", " in the snow", " in a forest")
# [draws, vectors, d], of offsets from class nouns
Offsets = Float[np.ndarray, "_ _ _"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which adapters."""

    adapters: Path = Path("runs/modular/seed-0/wide_random")
    """A folder of adapters on the pocket model, of one number of token vectors."""
    count: int = 8
    """How many of them are asked; all of them are the others."""
    draws: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(self)


def answers(
    sd: StableDiffusion, encode: Callable[..., jax.Array], adapter: Adapter, nouns: Sequence[str], offsets: Offsets
) -> float:
    """The adapter's mean output on prompts about `nouns`, before each of which a token stands that is so far from it."""
    table, vectors = np.asarray(token_table(sd.params)), offsets.shape[1]
    rows = table[last_token_ids(sd.tokenizer, list(nouns))][:, None] + offsets
    prompts = [[f"a photo of <x> {noun}{scene}" for scene in SCENES] for noun in nouns]
    ids = np.stack([sd.tokenizer.encode(group, {"<x>": vectors}) for group in prompts])
    # Each noun's token has rows of its own.
    ids = np.where(ids >= len(table), ids + vectors * np.arange(len(ids))[:, None, None], ids)
    params = with_tokens(sd.params, {"text_encoder": [rows.reshape(-1, rows.shape[-1])]})
    towers = {"text_encoder": params["text_encoder"]}
    states, kernels = encode(towers, ids.reshape(-1, ids.shape[-1])), flatten_params(sd.params["unet"])
    energies = []
    for path, pair in adapter.lora["unet"].items():
        a, b, base = (jnp.asarray(x, jnp.float32) for x in (*pair, kernels[f"{path}/kernel"]))
        energies.append(output_energy((states @ a) @ b * adapter.info.scale, states @ base))
    by_token = jnp.stack(energies).mean(0).reshape(len(nouns), len(SCENES)).mean(1)
    return float(jnp.sqrt(by_token).mean())


def kinds(others: Offsets, deviation: float, options: Options) -> dict[str, Callable[[np.random.Generator], Offsets]]:
    """How tokens of others may be drawn, as offsets [draws, v, d]. others: the trained ones. deviation: of the token table."""
    count, mean = options.draws, others.mean(0)
    noise = lambda rng: deviation * rng.standard_normal((count, *others.shape[1:]))
    some = lambda rng: others[rng.integers(len(others), size=count)]
    mix = lambda rng: np.einsum(
        "pk,kvd->pvd", rng.standard_normal((count, len(others))) / (len(others) - 1) ** 0.5, others - mean
    )
    return {
        "drawn around the noun, as far as tokens start": noise,
        "drawn around the noun, twice as far": lambda rng: 2 * noise(rng),
        "trained ones of other concepts": some,
        "trained ones, coordinates shuffled": lambda rng: some(rng)[..., rng.permutation(others.shape[-1])],
        "the mean of trained ones, and noise": lambda rng: mean + 1.8 * noise(rng),
        "a Gaussian like trained ones": lambda rng: mean + mix(rng),
    }


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    sd = StableDiffusion.from_pretrained("pocket")
    adapters = [Adapter.load(path) for path in sorted(options.adapters.rglob("adapter.safetensors"))]
    if len(adapters) < 3:
        raise UserError(
            f"{options.adapters} holds fewer than three adapters: teach some by python -m benchmarks.modular"
        )
    table, nouns = np.asarray(token_table(sd.params)), [adapter.info.class_noun for adapter in adapters]
    own = table[last_token_ids(sd.tokenizer, nouns)]
    offsets = np.stack([next(iter(a.tokens.values())) - noun for a, noun in zip(adapters, own, strict=True)])
    far, deviation = np.sqrt(np.square(offsets).mean()) / table.std(), float(table.std())
    print(f"{len(adapters)} trained tokens lie {far:.2f} deviations of the token table from their nouns")
    encode = jax.jit(lambda towers, ids: encode_text(with_token_rows(sd.models, towers), towers, ids).states)
    found: dict[str, list[float]] = {}
    for k, adapter in enumerate(adapters[: options.count]):
        mine = answers(sd, encode, adapter, [nouns[k]], offsets[k : k + 1])
        for name, draw in kinds(np.delete(offsets, k, 0), deviation, options).items():
            rng = np.random.default_rng((options.seed, k))
            strangers = [nouns[i] for i in rng.integers(len(nouns), size=options.draws)]
            found.setdefault(name, []).append(answers(sd, encode, adapter, strangers, draw(rng)) / mine)
    print("| tokens in the prompt | output over own |\n|---|---|")
    for name, values in found.items():
        print(f"| {name} | {np.mean(values):.3f} |")


if __name__ == "__main__":
    run(main)
