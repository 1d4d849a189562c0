"""Merging N adapters from disk to disk: time and memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checkpoints.diffusers import load_folder
from blocklora_jax.errors import UserError
from blocklora_jax.testing.random_adapter import random_adapter

# Slots in a basis, as the defaults of train.concept have them.
_PARTITION = Partition(num_blocks=512, basis="0" * 16, assignment="text")


def measure(model: str, folder: Path, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each number of adapters. Each merge runs in a process of its own, which says its memory."""
    # Not in memory, so that models of any size can be merged.
    base = load_folder(model, mapped=True)
    files = []
    for i in range(max(counts)):
        path = folder / "adapters" / f"c{i}.safetensors"
        settings = {"layers": "cross_kv", "partition": _PARTITION, "rank": 8, "size": 0.05}
        path.parent.mkdir(parents=True, exist_ok=True)
        random_adapter(f"c{i:03d}", base.params, slots=(i,), **settings).save(path)
        files.append(str(path))
    source, rows = str(base.source), []
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.scale.composing", source, str(folder / f"out{count}")]
        done = subprocess.run([*command, *files[:count]], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"merging {count} adapters failed, see above")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


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
