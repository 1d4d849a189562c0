"""How many steps of how many concepts training makes in a second on 1, 2, 4 and 8 devices.

`python -m benchmarks.devices [--quick]` divides the CPU of this machine into so many devices, each number in a process
of its own. They share the cores, so the table shows what padding and exchanges cost, not what more hardware gains.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure training on forced devices of the CPU."""

    counts: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices."""
    model: str = "pocket"
    concepts: int = 7
    """Number of concepts that train in one program."""
    batch: int = 6
    rounds: int = 5
    """Number of measured steps."""
    quick: bool = False
    """A tiny random model on one device and on eight, to see that the program runs."""

    def __post_init__(self) -> None:
        check_options(self)


def measure(options: Options, count: int) -> dict[str, Any]:
    """The row of the table for this number of devices, from `benchmarks.devices_child` in another process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    if options.quick:
        flags += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    settings = {
        "model": "tiny" if options.quick else options.model,
        "concepts": options.concepts,
        "batch": options.batch,
        "rounds": 2 if options.quick else options.rounds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.devices_child", json.dumps(settings)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(f"the measurement on {count} devices failed, see above")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements as text, a line for each number of devices."""
    lines = [f"{'devices':>7} {'concept x data':>15} {'padding':>8} {'concepts x steps/s':>19} {'of the first':>13}"]
    for row in rows:
        mesh, ratio = f"{row['groups']} x {row['row_devices']}", row["concept_steps"] / rows[0]["concept_steps"]
        lines.append(f"{row['devices']:7} {mesh:>15} {row['padding']:8.0%} {row['concept_steps']:19.2f} {ratio:13.2f}")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    options = read_options(Options, description=__doc__)
    rows = [measure(options, count) for count in ((1, 8) if options.quick else options.counts)]
    name, cores = platform.processor() or platform.machine(), os.cpu_count()
    print(f"{name}, {cores} cores, {options.concepts} concepts, batch {options.batch}")
    print(table(rows))
    print(json.dumps({"cores": cores, "concepts": options.concepts, "batch": options.batch, "rows": rows}))


if __name__ == "__main__":
    run(main)
