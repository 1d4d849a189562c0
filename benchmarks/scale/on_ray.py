"""The example for Ray, on this machine with four workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.scale.kills import train_alone
from benchmarks.scale.study import Study, read_adapters
from blocklora_jax.errors import UserError

_EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster" / "ray_shares.py"


def run_on_ray(study: Study, workers: int = 4) -> str:
    """Train the study by the example; returns a line that says whether the adapters are those of one machine."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("--parts ray needs Ray: pip install 'blocklora_jax[ray]'") from error
    reference, out, began = train_alone(study, study.folder / "alone"), study.folder / "ray", time.monotonic()
    flags = study.command(out, "--at-once", "1", "--lease", "60")[3:]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.getcwd()}
    # Ray would give this machine as many workers at once as it has cores.
    words = [sys.executable, str(_EXAMPLE), "--shares", str(workers), "--cpus", str((os.cpu_count() or 1) / workers)]
    done = subprocess.run([*words, "--", *flags], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError("the example for Ray failed, see above")
    found = read_adapters(out)
    trained = sum(int(line.split(": ")[1].split()[0]) for line in done.stdout.splitlines() if line.startswith("share "))
    different = sum(found.get(name) not in (None, data) for name, data in reference.items())
    return (
        f"Ray {ray.__version__}, {workers} workers: {len(reference)} concepts, {len(reference.keys() - found.keys())} "
        f"lost, {trained - len(found)} twice, {different} different from one machine's; "
        f"{time.monotonic() - began:.0f} s"
    )
