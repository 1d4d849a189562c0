"""One job on two hosts of four devices each (processes on CPUs). One host is killed, and the job goes on on another."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.study import Study, read_adapters
from blocklora_jax.adapters.adapter import Adapter

_DEVICES = 4
_MOST = 900.0  # seconds


def run_large_job(study: Study) -> str:
    """Train on two hosts, kill one, resume on one host with two devices; returns what happened in one line.

    The adapters are compared with those of an undisturbed run on one device.
    """
    out, began = study.folder / "large", time.monotonic()
    hosts = _start_hosts(study, out, 2, _DEVICES, "--at-once", "2")
    _wait_for(out, hosts)
    killed = time.monotonic()
    hosts[1].kill()
    hosts[1].wait()
    code, ended = hosts[0].wait(120), time.monotonic() - killed
    said = (study.folder / "host0-of-2.txt").read_text().splitlines()
    lines = [line for line in said if line.startswith("error: ")]
    [again] = _start_hosts(study, out, 1, 2, "--at-once", "2", "--resume")
    if again.wait(_MOST):
        raise RuntimeError((study.folder / "host0-of-1.txt").read_text()[-2000:])
    [alone] = _start_hosts(study, study.folder / "undisturbed", 1, 1, "--at-once", "2")
    alone.wait(_MOST)
    worst = max(
        _difference(out / name / "adapter.safetensors", study.folder / "undisturbed" / name / "adapter.safetensors")
        for name in read_adapters(study.folder / "undisturbed")
    )
    return (
        f"2 hosts x {_DEVICES} devices, one killed: the other ended after {ended:.0f} s with code {code} and "
        f"{len(lines)} line ({lines[0][:60] if lines else 'none'}…); resumed on 1 host x 2 devices: "
        f"{len(read_adapters(out))} adapters, {worst:.1e} from an undisturbed run on 1 device, of the largest value; "
        f"{time.monotonic() - began:.0f} s"
    )


def _start_hosts(study: Study, out: Path, hosts: int, devices: int, *more: str) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for index in range(hosts):
        environment: dict[str, Any] = {
            **os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "HF_HUB_OFFLINE": "1",
            "JAX_COMPILATION_CACHE_DIR": str(study.folder / f"compiled{hosts}x{devices}"),
        }  # fmt: skip
        joined = ["--coordinator", address, "--process-count", str(hosts), "--process-id", str(index)] * (hosts > 1)
        with (study.folder / f"host{index}-of-{hosts}.txt").open("wb") as log:
            started.append(
                subprocess.Popen(study.command(out, *joined, *more), env=environment, stdout=log, stderr=log)
            )
    return started


def _wait_for(out: Path, hosts: list[subprocess.Popen[bytes]]) -> None:
    """Return when a checkpoint is there."""
    until = time.monotonic() + _MOST
    while not any(path.name.isdecimal() for path in out.glob("groups/*/checkpoints/*")):
        if time.monotonic() > until or any(host.poll() is not None for host in hosts):
            raise RuntimeError("the hosts made no checkpoint, see host0-of-2.txt")
        time.sleep(0.2)


def _difference(one: Path, other: Path) -> float:
    """The largest difference of two adapters, of the largest value of each array."""
    a, b = Adapter.load(one), Adapter.load(other)
    return max(
        float(np.abs(x - y).max() / np.abs(y).max())
        for component, layers in b.lora.items()
        for layer, pair in layers.items()
        for x, y in zip(a.lora[component][layer], pair, strict=True)
    )
