"""A registry of ten thousand concepts, and 64 processes that claim slots in it at the same time."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.registry.claims import Entry, Registry
from blocklora_jax.registry.store import create_registry, read_registry, update_registry

_BLOCKS = 1 << 16


def measure(folder: Path, concepts: int, writers: int) -> str:
    """One line: how long a claim takes, and whether each of the writers got a slot of its own."""
    entries = tuple(Entry(name=f"c{i}", token=f"<c{i}>", slots=(i,)) for i in range(concepts))
    create_registry(folder, Registry(partition=Partition(num_blocks=_BLOCKS), entries=entries))
    began = time.perf_counter()
    update_registry(folder, lambda registry: _claim(registry, "first"))
    one, size = time.perf_counter() - began, (folder / "registry.json").stat().st_size
    began = time.perf_counter()
    # Forked from a process that has imported this module, which takes longer than a claim, but not JAX.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started = [context.Process(target=_update, args=(folder, f"w{i}")) for i in range(writers)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    failed = sum(process.exitcode != 0 for process in started)
    both = time.perf_counter() - began
    registry = read_registry(folder)
    began = time.perf_counter()
    problems = len(registry.collisions())
    check = time.perf_counter() - began
    return (
        f"registry of {concepts:,} concepts ({size / 1e6:.1f} MB): a claim takes {one:.2f} s, a check {check:.2f} s; "
        f"{writers} processes at once: {failed} failed, {len(registry.entries) - concepts - 1} claimed, "
        f"{problems} collisions, {both:.0f} s"
    )


def _claim(registry: Registry, name: str) -> Registry:
    return registry.claim(Entry(name=name, token=f"<{name}>", slots=registry.draw_slots(name, "free")))


def _update(folder: Path, name: str) -> None:
    try:
        update_registry(folder, lambda registry: _claim(registry, name))
    except UserError:
        sys.exit(1)
