"""`fuse_lora` of many adapters into a U-Net, by diffusers and PEFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.accelerator.rows import Rows, one_line
from benchmarks.accelerator.torch_model import add_lora, device_name, make, wait

RANK = 8
LAYERS = {
    "cross_kv": ["attn2.to_k", "attn2.to_v"],
    "attention": ["to_k", "to_q", "to_v", "to_out.0"],
}
ROUNDS = 3


def prepare(counts: list[int], size: str) -> Callable[[], Rows]:
    """U-Nets with the adapters, which PEFT adds slowly."""
    chosen = [("cross_kv", count) for count in counts] + [("attention", counts[0])]
    made: dict[tuple[str, int], Any] = {}
    for layers, count in chosen if size == "full" else [("cross_kv", 3)]:
        try:
            unet = make("sd15", "unet", size)
            for i in range(count):
                add_lora(unet, f"c{i}", RANK, LAYERS[layers])
            unet.set_adapters([f"c{i}" for i in range(count)])
            made[layers, count] = unet
        except Exception as error:
            made[layers, count] = error

    def measure() -> Rows:
        for (layers, count), unet in made.items():
            row = {"measured": "fuse", "adapters": count, "layers": layers, "device": device_name()}
            try:
                if isinstance(unet, Exception):
                    raise unet
                yield row | {"seconds": _seconds(unet, count)}
            except Exception as error:
                yield row | {"error": one_line(error)}

    return measure


@torch.no_grad()
def _seconds(unet: Any, count: int) -> float:
    """The median time. Taking the adapters out again is not counted, and neither is the first time."""
    import statistics
    import time

    times = []
    for _ in range(ROUNDS + 1):
        wait()
        began = time.perf_counter()
        unet.fuse_lora(adapter_names=[f"c{i}" for i in range(count)])
        wait()
        times.append(time.perf_counter() - began)
        unet.unfuse_lora()
    return statistics.median(times[1:])
