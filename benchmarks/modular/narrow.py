"""The error that a narrow block of text features causes, in closed form: `python -m benchmarks.modular.narrow`.

The bench trains ordinary LoRAs first (`python -m benchmarks.modular --methods sum`). This program converts them into
one of K blocks (blocklora_jax/probing/conversion.py). Of all changes within the block, it takes the one with the
least error on the concept's prompts and the least output on random prompts. Training cannot do better on these
prompts, with any number of steps. Prints a table by K, and how many directions of the text features hold the energy
of ordinary prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.probing.conversion import Fit, convert
from blocklora_jax.probing.conversion_config import ConversionConfig
from train.text_basis import principal_directions, text_moments

LAYERS = ("unet attn2/to_k", "unet attn2/to_v")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which LoRAs, into how many blocks."""

    adapters: Path = Path("runs/modular/seed-0/plain")
    """A folder; the first `--count` files adapter.safetensors below it are read."""
    count: int = 5
    blocks: tuple[int, ...] = (1, 2, 4, 8, 16)
    rank: int = 16
    erase_weight: float = 10.0
    prompts: int = 256
    """Ordinary prompts whose directions are counted."""

    def __post_init__(self) -> None:
        check_options(self, {"blocks": BOUNDS["slots"]})


def narrow(sd: StableDiffusion, adapters: Sequence[Adapter], blocks: int, options: Options) -> list[Fit]:
    """How well the adapters fit into one of `blocks` blocks: means over them, of each of `LAYERS`."""
    config = ConversionConfig(rank=options.rank, erase_weight=options.erase_weight)
    partition, words = Partition(num_blocks=blocks), words_for(sd.checkpoint.name)
    fits = [convert(sd, adapter, partition, (0,), words, config)[1] for adapter in adapters]
    return [Fit(*np.mean([fit[layer] for fit in fits], axis=0)) for layer in LAYERS]


def spectrum(sd: StableDiffusion, count: int) -> np.ndarray:
    """Shares of ordinary text's energy by direction of its features [d], the strongest first."""
    energies, _ = principal_directions(text_moments(sd, words_for(sd.checkpoint.name), count))
    return energies / energies.sum()


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    sd = StableDiffusion.from_pretrained("pocket")
    paths = sorted(options.adapters.rglob("adapter.safetensors"))[: options.count]
    if not paths:
        raise UserError(
            f"{options.adapters} holds no adapter: teach some by python -m benchmarks.modular --methods sum"
        )
    adapters = [Adapter.load(path) for path in paths]
    print(
        "| K | text features a block | error on own prompts, to_k / to_v"
        " | output on random prompts over own, to_k / to_v |"
    )
    print("|---" * 4 + "|")
    for blocks in options.blocks:
        fits = narrow(sd, adapters, blocks, options)
        if blocks == options.blocks[0]:
            print(f"| as trained | | - | {' / '.join(f'{fit.leak_before:.2f}' for fit in fits)} |")
        width = adapters[0].shapes()["unet"]
        features = next(iter(width.values()))[0] // blocks
        cells = (" / ".join(f"{getattr(fit, name):.2f}" for fit in fits) for name in ("error", "leak"))
        print(f"| {blocks} | {features} | {' | '.join(cells)} |", flush=True)
    share = np.cumsum(spectrum(sd, options.prompts))
    counts = ", ".join(f"{np.searchsorted(share, part) + 1} hold {part:.0%}" for part in (0.5, 0.9, 0.95, 0.99))
    print(f"of {len(share)} directions of ordinary text {counts} of its energy; beyond 64 there is {1 - share[63]:.1%}")


if __name__ == "__main__":
    run(main)
