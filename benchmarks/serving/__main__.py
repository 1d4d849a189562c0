"""Exchanging concepts in a model in memory, beside diffusers: `python -m benchmarks.serving [--swaps 1000]`.

Ours (`merge.AdapterSwitch`) writes the merged kernels anew. *alone* is one concept in the model, *among* one of many
that are in it together, *copy* is a copy of the kernels that a concept changes. diffusers either keeps the adapters
beside the weights (`set_adapters`), which costs time in every forward pass, or adds them (`fuse_lora`) and subtracts
them again (`unfuse_lora`). *difference* is the largest difference of any weight from the base after all exchanges.
Prints a table and a line of JSON.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    adapters: tuple[int, ...] = (15, 60)
    """How many concepts are in the model together."""
    swaps: int = 50
    """Number of exchanges of each sort."""
    model: str = "pocket"
    """A Diffusers folder, or "pocket"."""
    only: tuple[str, ...] = ("ours", "diffusers")
    """Which sides. diffusers needs `pip install 'blocklora_jax[torch]'`."""

    def __post_init__(self) -> None:
        check_options(self, {"swaps": Bound(2, 10**6), "adapters": Bound(1, 63)})


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__, prog="python -m benchmarks.serving")
    print(f"{platform.machine()}, {options.model}, {options.swaps} exchanges of each sort; CPU milliseconds, medians")
    rows: list[dict[str, Any]] = []
    for side, measured in (("ours", _ours), ("diffusers", _theirs)):
        for row in measured(options) if side in options.only else ():
            rows.append(row)
            print(_line(row), flush=True)
    print(json.dumps(rows))


def _ours(options: Options) -> Iterator[dict[str, Any]]:
    from benchmarks.serving.ours import measure
    from blocklora_jax.pipeline import StableDiffusion

    sd = StableDiffusion.from_pretrained(options.model)
    return (measure(sd, count, options.swaps) for count in options.adapters)


def _theirs(options: Options) -> Iterator[dict[str, Any]]:
    from benchmarks.serving.theirs import load, measure
    from blocklora_jax.checkpoints.hub import find_source

    folder = str(find_source(options.model, None).fetch([]))
    # A new U-Net each time, because adapters are never taken away.
    return (measure(load(folder), count, options.swaps) for count in options.adapters)


def _line(row: dict[str, Any]) -> str:
    if row["side"] == "ours":
        return (
            f"ours, {row['adapters']}: alone {row['alone_ms']:.2f}, among {row['among_ms']:.2f}, copy "
            f"{row['copy_ms']:.2f}; difference {row['difference']:.2g} after {row['swaps']}"
        )
    return (
        f"diffusers, {row['adapters']}: set_adapters {row['set_ms']:.2f}, fuse and unfuse {row['fuse_ms']:.2f}; "
        f"forward {row['forward_none_ms']:.1f} without, {row['forward_one_ms']:.1f} with one, "
        f"{row['forward_all_ms']:.1f} with all; difference {row['difference']:.2g} after {row['swaps']}"
    )


if __name__ == "__main__":
    run(main)
