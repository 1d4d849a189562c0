"""How long merging fifteen concepts into Stable Diffusion 1.5 takes, against one plain pass over the same weights.

The adapters are random. They adapt all 128 attention kernels of the U-Net (93.5 M weights), with K = 16 blocks and one
slot each. The plain pass adds one low-rank product of the summed rank to every kernel in NumPy, without blocks and
checks. Any merge of ordinary LoRAs has to do at least this. Prints a table and one line of JSON.

    python benchmarks/compose.py [--quick] [--adapters 15] [--ranks 4 16] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Axis, Partition
from blocklora_jax.command_line.options import check_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.layouts.low_rank import LoRAPair

TEXT_WIDTH = 768
# Transformers of the U-Net: (where, number of blocks, number of transformers in each, channels).
STAGES = (
    ("down_blocks_0", 2, 320), ("down_blocks_1", 2, 640), ("down_blocks_2", 2, 1280), ("mid_block", 1, 1280),
    ("up_blocks_1", 3, 1280), ("up_blocks_2", 3, 640), ("up_blocks_3", 3, 320),
)  # fmt: skip


def kernel_shapes(quick: bool) -> dict[str, tuple[int, int]]:
    """The attention kernels of the 1.5 U-Net, or of its first stage."""
    shapes = {}
    for stage, transformers, channels in STAGES[:1] if quick else STAGES:
        for i in range(transformers):
            for attention, width in (("attn1", channels), ("attn2", TEXT_WIDTH)):
                root = f"{stage}/attentions_{i}/transformer_blocks_0/{attention}"
                shapes |= {f"{root}/to_q": (channels, channels), f"{root}/to_out_0": (channels, channels)}
                shapes |= {f"{root}/to_k": (width, channels), f"{root}/to_v": (width, channels)}
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


def random_adapters(shapes: dict[str, tuple[int, int]], count: int, rank: int, axis: Axis) -> list[Adapter]:
    """Adapters `concept0`, `concept1`, … on slots 0, 1, …, zero outside their blocks."""
    rng, adapters = np.random.default_rng(1), []
    for slot in range(count):
        info = AdapterInfo(
            name=f"concept{slot}", class_noun="man", trigger="", rank=rank, alpha=rank,
            partition=Partition(axis=axis), slots=(slot,),
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


def measure(shapes: dict[str, tuple[int, int]], count: int, rank: int, axis: Axis, repeats: int) -> dict:
    """Seconds of the plain pass, and the time of compose on NumPy and on JAX params as multiples of that."""
    params, adapters = random_params(shapes), random_adapters(shapes, count, rank, axis)
    kernels = dict(zip(shapes, _in_order(params, shapes), strict=True))
    pairs = merge.concatenate(adapters)["unet"]
    plain = median_seconds(lambda: [kernels[path] + a @ b for path, (a, b) in pairs.items()], repeats)
    on_device = jax.tree.map(jnp.asarray, params)
    return {
        "axis": axis,
        "rank": rank,
        "plain_pass_s": plain,
        "compose_numpy": median_seconds(lambda: merge.compose(params, adapters), repeats) / plain,
        "compose_jax": median_seconds(lambda: merge.compose(on_device, adapters), repeats) / plain,
    }


def _in_order(params: dict, shapes: dict) -> list[np.ndarray]:
    flat = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(params)
    }
    return [flat[f"unet/{path}/kernel"] for path in shapes]


def main() -> None:
    """Measure both axes and all ranks, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first stage only, one repeat")
    parser.add_argument("--adapters", type=int, default=15, choices=range(1, 17), metavar="N", help="1 to 16")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    check_options(options)
    shapes, repeats = kernel_shapes(options.quick), 1 if options.quick else options.repeats
    rows = [measure(shapes, options.adapters, r, axis, repeats) for axis in ("in", "out") for r in options.ranks]
    weights = sum(n * m for n, m in shapes.values())
    print(f"{options.adapters} adapters, {len(shapes)} kernels, {weights / 1e6:.1f} M weights, {jax.default_backend()}")
    print(f"{'axis':>5} {'rank':>5} {'plain pass':>12} {'compose NumPy':>15} {'compose JAX':>13}")
    for row in rows:
        print(
            f"{row['axis']:>5} {row['rank']:>5} {row['plain_pass_s']:>10.3f} s {row['compose_numpy']:>14.2f}x", end=""
        )
        print(f" {row['compose_jax']:>12.2f}x")
    print(json.dumps({"adapters": options.adapters, "kernels": len(shapes), "weights": weights, "results": rows}))


if __name__ == "__main__":
    run(main)
