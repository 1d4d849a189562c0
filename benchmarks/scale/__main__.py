"""How far many concepts scale: `python -m benchmarks.scale [--parts devices processes kills ray large …]`.

devices: concepts x steps/s of one program on a CPU that is divided into 1, 2 and 4 devices. processes: the same of 1 to
4 processes that train shares (`train.concepts --shard`), their start included. kills: machines (processes) that train
shares are killed at random; every concept must be trained once, to the bytes of one machine. ray: the example for Ray
with four workers. large: one job on two hosts of four devices each, one of which is killed. compose: merging 1 to 300
adapters from disk to disk (`merge --stream`), time and memory. registry: 10,000 concepts, and 64 writers.
Without --parts: processes, kills, compose and registry, small. Prints tables and a line of JSON for each.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run

Part = Literal["devices", "processes", "kills", "ray", "large", "compose", "registry"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    parts: tuple[Part, ...] = ("processes", "kills", "compose", "registry")
    """The parts."""
    concepts: int = 6
    """Concepts of the study: of processes, kills, ray and large."""
    steps: int = 6
    """Steps of each concept."""
    processes: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of processes."""
    kills: int = 3
    """Number of kills."""
    adapters: tuple[int, ...] = (1, 15, 60)
    """Numbers of adapters to merge."""
    model: str = "pocket"
    """The model to merge into: "pocket", a Diffusers folder, or "sd15", "sd21" or "sdxl": random weights of full size,
    for which SDXL needs 30 GB in the folder for temporary files."""
    entries: int = 10_000
    """Concepts in the registry."""
    writers: int = 8
    """Processes that claim a slot at the same time."""
    seed: int = 0
    """Seed of the kills."""

    def __post_init__(self) -> None:
        bounds = {"processes": Bound(1, 64), "kills": Bound(1, 1000), "adapters": Bound(1, 512)}
        check_options(self, bounds | {"entries": Bound(1, 60_000), "writers": Bound(1, 256)})


def main() -> None:
    """The command line. Exits with 1 if a concept is lost, trained twice or different."""
    options = read_options(Options, description=__doc__, prog="python -m benchmarks.scale")
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    print(f"{platform.machine()}, {os.cpu_count()} cores", flush=True)
    parts: dict[Part, Callable[[Options, Path], bool]] = {
        "devices": _devices, "processes": _processes, "kills": _kills, "ray": _ray, "large": _large,
        "compose": _compose, "registry": _registry,
    }  # fmt: skip
    try:
        good = [parts[part](options, folder / part) for part in options.parts]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not all(good):
        sys.exit(1)


def _devices(options: Options, folder: Path) -> bool:
    from benchmarks import devices

    counts = (1, 2, 4)
    rows = [devices.measure(devices.Options(concepts=options.concepts, quick=True), count) for count in counts]
    print(devices.table(rows), flush=True)
    return _say("devices", rows)


def _processes(options: Options, folder: Path) -> bool:
    from benchmarks.scale import processes
    from benchmarks.scale.study import make_study

    study = make_study(folder, options.concepts, options.steps, save_every=options.steps)
    rows = processes.measure(study, options.processes, options.concepts, options.steps, at_once=1)
    for row in rows:
        ratio = row["concept_steps"] / rows[0]["concept_steps"]
        rate = f"{row['concept_steps']:.2f} concepts x steps/s, {ratio:.2f} of one"
        rate += f"; {row['cpu_seconds']:.0f} CPU seconds"
        print(f"{row['processes']} processes: {rate}", flush=True)
    return _say("processes", rows)


def _kills(options: Options, folder: Path) -> bool:
    from benchmarks.scale.kills import kill_machines
    from benchmarks.scale.study import make_study

    found = kill_machines(make_study(folder, options.concepts, options.steps), 3, options.kills, options.seed)
    print(found, flush=True)
    return _say("kills", found._asdict()) and found.is_good


def _ray(options: Options, folder: Path) -> bool:
    from benchmarks.scale.on_ray import run_on_ray
    from benchmarks.scale.study import make_study

    print(run_on_ray(make_study(folder, options.concepts, options.steps)), flush=True)
    return True


def _large(options: Options, folder: Path) -> bool:
    from benchmarks.scale.large import run_large_job
    from benchmarks.scale.study import make_study

    print(run_large_job(make_study(folder, 2, max(options.steps, 40))), flush=True)
    return True


def _compose(options: Options, folder: Path) -> bool:
    from benchmarks.scale import composing

    rows = composing.measure(options.model, folder, options.adapters)
    for row in rows:
        print(f"{row['adapters']} adapters: {row['cpu_seconds']:.1f} CPU seconds, {row['mib']} MiB at most", flush=True)
    return _say("compose", rows)


def _registry(options: Options, folder: Path) -> bool:
    from benchmarks.scale import claiming

    folder.mkdir()
    print(claiming.measure(folder, options.entries, options.writers), flush=True)
    return True


def _say(part: str, value: Any) -> bool:
    print(json.dumps({part: value}), flush=True)
    return True


if __name__ == "__main__":
    run(main)
