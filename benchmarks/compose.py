"""How long merging concepts into Stable Diffusion 1.5 takes: `python -m benchmarks.compose [--quick]`.

The adapters are random, with a slot each of K = 64 blocks, on the layers that read text (19.2 M weights), as the
defaults of `train.concept` are, or on all attention layers (93.5 M weights). A copy of these weights is the least that
any merge can take; its time depends on whether the allocator has such memory at hand. The plain pass adds one product
of all adapters' factors to every kernel in NumPy, without blocks and checks: the least for merging LoRAs. Prints a
table in seconds and one line of JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.layouts.low_rank import LoRAPair

TEXT_WIDTH = 768
# Transformers of the U-Net: (where, number of blocks, number of transformers in each, channels).
STAGES = (
    ("down_blocks_0", 2, 320), ("down_blocks_1", 2, 640), ("down_blocks_2", 2, 1280), ("mid_block", 1, 1280),
    ("up_blocks_1", 3, 1280), ("up_blocks_2", 3, 640), ("up_blocks_3", 3, 320),
)  # fmt: skip


Blocks = Literal["directions", "inputs", "outputs"]
Layers = Literal["cross_kv", "attention"]
NUM_BLOCKS = 64
PARTITIONS: dict[Blocks, Partition] = {
    "directions": Partition(num_blocks=NUM_BLOCKS, basis="random", assignment="text"),
    "inputs": Partition(num_blocks=NUM_BLOCKS, axis="in"),
    "outputs": Partition(num_blocks=NUM_BLOCKS, axis="out"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time `compose` beside a copy of the weights that it changes, and beside a plain sum."""

    adapters: tuple[int, ...] = (15, 60)
    """How many are merged."""
    ranks: tuple[int, ...] = (8,)
    blocks: tuple[Blocks, ...] = ("directions", "inputs", "outputs")
    """What the blocks are made of: directions of the text features, as in the defaults, or input or output features."""
    layers: Layers = "cross_kv"
    repeats: int = 5
    quick: bool = False
    """The first stage of the U-Net only, one repeat."""

    def __post_init__(self) -> None:
        check_options(self, {"adapters": Bound(1, NUM_BLOCKS)})


def kernel_shapes(options: Options) -> dict[str, tuple[int, int]]:
    """The adapted kernels of the 1.5 U-Net, or of its first stage."""
    shapes = {}
    for stage, transformers, channels in STAGES[:1] if options.quick else STAGES:
        for i in range(transformers):
            root = f"{stage}/attentions_{i}/transformer_blocks_0"
            shapes |= {f"{root}/attn2/{name}": (TEXT_WIDTH, channels) for name in ("to_k", "to_v")}
            if options.layers == "attention":
                names = ["attn1/to_q", "attn1/to_k", "attn1/to_v", "attn1/to_out_0", "attn2/to_q", "attn2/to_out_0"]
                shapes |= {f"{root}/{name}": (channels, channels) for name in names}
    return shapes


def random_params(shapes: dict[str, tuple[int, int]]) -> dict:
    """Normal fp32 kernels of the U-Net, as nested params."""
    rng, params = np.random.default_rng(0), {"unet": {}}
    for path, shape in shapes.items():
        node = params["unet"]
        for name in path.split("/"):
            node = node.setdefault(name, {})
        node["kernel"] = rng.standard_normal(shape, np.float32)
    return params


def random_adapters(shapes: dict[str, tuple[int, int]], count: int, rank: int, blocks: Blocks) -> list[Adapter]:
    """Adapters `concept0`, `concept1`, … on slots 0, 1, …, zero outside their blocks."""
    rng, adapters = np.random.default_rng(1), []
    for slot in range(count):
        info = AdapterInfo(
            name=f"concept{slot}", class_noun="man", trigger="", rank=rank, alpha=rank,
            partition=PARTITIONS[blocks], slots=(slot,),
        )  # fmt: skip
        layers = {}
        for path, (n, m) in shapes.items():
            rows, columns = info.support("unet", path, (n, m))
            pair = LoRAPair(np.zeros((n, rank), np.float32), np.zeros((rank, m), np.float32))
            pair.lora_A[rows] = rng.standard_normal((len(rows), rank), np.float32)
            pair.lora_B[:, columns] = rng.standard_normal((rank, len(columns)), np.float32)
            layers[path] = pair
        adapters.append(Adapter(lora={"unet": layers}, tokens={}, info=info))
    return adapters


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """The median time of a call. A first call is not counted."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(shapes: dict[str, tuple[int, int]], count: int, rank: int, blocks: Blocks, repeats: int) -> dict:
    """Seconds of a copy, of the plain pass, and of compose on NumPy and on JAX params."""
    params, adapters = random_params(shapes), random_adapters(shapes, count, rank, blocks)
    kernels = dict(zip(shapes, _in_order(params, shapes), strict=True))
    pairs = merge.concatenate(adapters)["unet"]
    on_device = jax.tree.map(jnp.asarray, params)
    works = {
        "copy": lambda: [kernel.copy() for kernel in kernels.values()],
        "plain_pass": lambda: [kernels[path] + a @ b for path, (a, b) in pairs.items()],
        "compose_numpy": lambda: merge.compose(params, adapters),
        "compose_jax": lambda: merge.compose(on_device, adapters),
    }
    times = {name: median_seconds(work, repeats) for name, work in works.items()}
    return {"adapters": count, "rank": rank, "blocks": blocks, **times}


def _in_order(params: dict, shapes: dict) -> list[np.ndarray]:
    flat = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(params)
    }
    return [flat[f"unet/{path}/kernel"] for path in shapes]


def main() -> None:
    """Measure all combinations, and print."""
    options = read_options(Options, description=__doc__)
    shapes, repeats = kernel_shapes(options), 1 if options.quick else options.repeats
    weights = sum(n * m for n, m in shapes.values())
    print(f"{len(shapes)} kernels, {weights / 1e6:.1f} M weights, {jax.default_backend()}; seconds")
    print(
        f"{'adapters':>8} {'rank':>5} {'blocks':>11} {'copy':>8} {'plain pass':>11} {'NumPy':>8} {'JAX':>8}"
        f" {'NumPy / plain':>14}"
    )
    rows = []
    for blocks in options.blocks:
        for count in options.adapters:
            for rank in options.ranks:
                rows.append(measure(shapes, count, rank, blocks, repeats))
                print_row(rows[-1])
    print(json.dumps({"kernels": len(shapes), "weights": weights, "results": rows}))


def print_row(row: dict) -> None:
    """A line of the table."""
    print(
        f"{row['adapters']:>8} {row['rank']:>5} {row['blocks']:>11} {row['copy']:>8.3f} {row['plain_pass']:>11.3f}"
        f" {row['compose_numpy']:>8.3f} {row['compose_jax']:>8.3f}"
        f" {row['compose_numpy'] / row['plain_pass']:>14.2f}", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
