"""Merging many adapters into a model on the device, against one read and one write of the weights that they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator.jax_model import configs_of, random_params
from benchmarks.accelerator.rows import Rows, one_line
from benchmarks.accelerator.timing import median_seconds
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.composing.compose import compose
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.low_rank import LoRAPair

# By size: the number of blocks, and the rank.
BLOCKS, RANK = {"full": 64, "tiny": 16}, 8
# Blocks of the features themselves, and of directions in a basis, whose changes are rounded to a grid.
FORMS: dict[str, dict[str, Any]] = {
    "features": {"axis": "in"}, "basis": {"axis": "in", "basis": "0" * 16, "assignment": "text"},
}  # fmt: skip
# Layers, forms, and whether the whole merge is one compiled program with the adapters on the device.
CASES = (
    ("cross_kv", "basis", False), ("cross_kv", "features", False), ("cross_kv", "basis", True),
    ("attention", "features", False), ("cross_kv", "features", True),
)  # fmt: skip


def prepare(counts: list[int], size: str) -> Callable[[], Rows]:
    """Make every merge once, which compiles its programs."""
    params = {"unet": random_params({"unet": configs_of("sd15", size)["unet"]})["unet"]}
    made = []
    for layers, form, jitted in CASES:
        # One program for many adapters takes minutes to compile.
        chosen = counts[:1] if jitted else counts
        for count in chosen if size == "full" else [4]:
            row = {"measured": "compose", "adapters": count, "layers": layers, "blocks": form, "jitted": jitted}
            try:
                partition = Partition(num_blocks=BLOCKS[size], **FORMS[form])
                case = _Case(params, random_adapters(params, layers, count, partition), jitted)
                made.append((row, case))
            except Exception as error:
                made.append((row, error))

    def measure() -> Rows:
        for row, case in made:
            try:
                if isinstance(case, Exception):
                    raise case
                yield row | case.measure()
            except Exception as error:
                yield row | {"error": one_line(error)}

    return measure


def random_adapters(params: dict[str, Any], layers: str, count: int, partition: Partition) -> list[Adapter]:
    """Adapters of slots 0, 1, …; in a basis the down projection is not in the slot's directions, which costs the same.

    They are zero outside their blocks.
    """
    shapes, rng = select_kernels(params, layers)["unet"], np.random.default_rng(0)

    def adapter(slot: int) -> Adapter:
        info = AdapterInfo(
            name=f"c{slot}", class_noun="man", trigger="", rank=RANK, alpha=RANK, partition=partition, slots=(slot,)
        )
        pairs = {}
        for path, (n, m) in shapes.items():
            rows, columns = info.support("unet", path, (n, m))
            a, b = np.zeros((n, RANK), np.float32), np.zeros((RANK, m), np.float32)
            a[rows] = 1e-2 * rng.standard_normal((len(rows), RANK), np.float32)
            b[:, columns] = 1e-2 * rng.standard_normal((RANK, len(columns)), np.float32)
            pairs[path] = LoRAPair(a, b)
        return Adapter(lora={"unet": pairs}, tokens={}, info=info)

    return [adapter(slot) for slot in range(count)]


class _Case:
    """A merge, and a program that reads and writes the weights that it changes. Both are called once."""

    def __init__(self, params: dict[str, Any], adapters: list[Adapter], jitted: bool) -> None:
        merge: Any = lambda params, adapters: compose(params, adapters, check_base=False)
        arguments: tuple[Any, Any] = params, adapters
        if jitted:
            merge, arguments = jax.jit(merge), (params, jax.device_put(adapters))
        flat = flatten_params(params["unet"])
        self._kernels = [flat[f"{path}/kernel"] for path in adapters[0].lora["unet"]]
        copy = jax.jit(lambda kernels: [kernel * 1.5 for kernel in kernels])
        self._out: Any = None
        self._merge, self._copy = lambda: self._keep(merge(*arguments)), lambda: self._keep(copy(self._kernels))
        self._merge()
        self._copy()
        self._wait()

    def _keep(self, out: Any) -> None:
        self._out = out

    def _wait(self) -> None:
        jax.block_until_ready(self._out)

    def measure(self) -> dict[str, Any]:
        """Seconds of the merge, and of reading and writing."""
        copied, seconds = (median_seconds(call, self._wait) for call in (self._copy, self._merge))
        return {
            "seconds": seconds, "read_and_write_seconds": copied, "ratio": round(seconds / copied, 2),
            "weights": sum(kernel.size for kernel in self._kernels), "device": jax.devices()[0].device_kind,
        }  # fmt: skip
