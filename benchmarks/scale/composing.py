"""Merging N adapters from disk to disk: time and memory."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.diffusers import load_folder
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.random_folder import write_model

# Names of families, whose weights are made up.
_PUBLISHED = ("sd15", "sd21", "sdxl")
# Slots in a basis, as the defaults of train.concept have them.
_PARTITION = Partition(num_blocks=512, basis="0" * 16, assignment="text")


def measure(model: str, folder: Path, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each number of adapters. Each merge runs in a process of its own, which says its memory.

    model: "pocket", a Diffusers folder, or "sd15", "sd21" or "sdxl" for random weights of full size in float16.
    """
    if model in _PUBLISHED:
        write_model(folder / model, model)
        model = str(folder / model)
    # Not in memory, so that models of any size can be merged.
    base = load_folder(model, mapped=True)
    files = _write_adapters(base.params, folder / "adapters", max(counts))
    source, rows = str(base.source), []
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.scale.composing", source, str(folder / f"out{count}")]
        done = subprocess.run([*command, *files[:count]], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"merging {count} adapters failed, see above")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        # A merged SDXL has 14 GB.
        shutil.rmtree(folder / f"out{count}")
    return rows


def _write_adapters(params: Mapping[str, Any], folder: Path, count: int) -> list[str]:
    """Adapters of one set of random values, each with a name and a slot of its own."""
    settings = {"layers": "cross_kv", "partition": _PARTITION, "rank": 8, "size": 0.05}
    first = random_adapter("c000", params, slots=(0,), **settings)
    folder.mkdir(parents=True)
    for i in range(count):
        name = f"c{i:03d}"
        info = replace(first.info, name=name, trigger=f"<{name}> man", slots=(i,))
        tokens = {f"<{name}>": vectors for vectors in first.tokens.values()}
        tokens_2 = {f"<{name}>": vectors for vectors in first.tokens_2.values()}
        replace(first, info=info, tokens=tokens, tokens_2=tokens_2).save(folder / f"{name}.safetensors")
    return [str(path) for path in sorted(folder.iterdir())]


def main() -> None:
    """Merge the files that the command line names, and print time and memory as JSON."""
    from merge.stream import merge_streamed

    model, out, *files = sys.argv[1:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    merge_streamed(model, [Path(file) for file in files], Path(out))
    row = {
        "adapters": len(files), "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu,
        "mib_before": before // 1024, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main()
