"""Exchanges by `merge.AdapterSwitch`."""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter

# Slots in a basis, as the defaults of train.concept have them.
_PARTITION = Partition(num_blocks=64, basis="0" * 16, assignment="text")


def measure(sd: StableDiffusion, count: int, swaps: int) -> dict[str, Any]:
    """Times of exchanging one concept, alone in the model and among `count`, and what is left after `swaps` of them."""
    known = [
        random_adapter(f"c{i}", sd.params, slots=(i,), layers="cross_kv", partition=_PARTITION, rank=8, size=0.05)
        for i in range(count + 1)
    ]
    names = [adapter.name for adapter in known]
    switch, rng = merge.AdapterSwitch(sd, known), np.random.default_rng(0)
    alone = _seconds(switch, [[names[i]] for i in rng.integers(0, len(names), swaps)])
    sets = _sets(names, swaps, rng)
    among = _seconds(switch, sets)
    expected = sd.with_adapters(_by_names(known, sets[-1])).params
    last = switch.use(sets[-1]).params
    wrong = _differing(last["unet"], expected["unet"])
    wrong += _differing(switch.use([]).params["unet"], sd.params["unet"])
    return {
        "side": "ours", "adapters": count, "swaps": 2 * swaps, "alone_ms": 1e3 * alone, "among_ms": 1e3 * among,
        "copy_ms": 1e3 * _copy_seconds(sd.params, known[0]), "difference": wrong,
    }  # fmt: skip


def _sets(names: list[str], swaps: int, rng: np.random.Generator) -> list[list[str]]:
    """Sets of all names but one. Each time one goes and the missing one comes."""
    active, missing, sets = names[:-1], names[-1], []
    for place in rng.integers(0, len(active), swaps):
        active = [*active[:place], missing, *active[place + 1 :]]
        missing = next(name for name in names if name not in active)
        sets.append(active)
    return sets


def _seconds(switch: merge.AdapterSwitch, sets: list[list[str]]) -> float:
    """The median CPU time of going from one set to the next, in the second half: the first ones compile and check."""
    times = []
    for names in sets:
        began = time.process_time()
        jax.block_until_ready(switch.use(names).params)
        times.append(time.process_time() - began)
    return statistics.median(times[len(times) // 2 :])


def _copy_seconds(params: Any, adapter: Adapter) -> float:
    """The time of copying the kernels that an adapter changes."""
    changed = merge.compose(params, [adapter])
    pairs = zip(jax.tree.leaves(params["unet"]), jax.tree.leaves(changed["unet"]), strict=True)
    kernels = [one for one, other in pairs if one is not other]
    copy = jax.jit(lambda arrays: [jnp.copy(array) for array in arrays])
    times = []
    for _ in range(11):
        began = time.process_time()
        jax.block_until_ready(copy(kernels))
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def _by_names(adapters: list[Adapter], names: list[str]) -> list[Adapter]:
    return [next(adapter for adapter in adapters if adapter.name == name) for name in names]


def _differing(tree: Any, expected: Any) -> float:
    """The largest difference of two trees of arrays; NaN if one is not finite, which Python's `max` may pass over."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    return float(np.max([float(jnp.abs(one - other).max()) for one, other in pairs]))
