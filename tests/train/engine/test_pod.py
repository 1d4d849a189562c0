"""Two processes train one concept together, as the hosts of a TPU pod do, but on CPUs and over the loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from addresses import free_address
from concept_builders import as_flags, make_config, settings, write_pictures

from blocklora_jax import Adapter
from train.concept.run import train_concept
from train.engine.pod import LOST

ROOT = Path(__file__).parents[3]
HOST = """
import sys, train, jax
from train.engine.pod import join_pod
jax.config.update("jax_platforms", "cpu")
address, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
join_pod(coordinator_address=address, num_processes=count, process_id=index)
sys.argv[1:4] = []
from train.concept.__main__ import main
from blocklora_jax.command_line.runner import run
run(main)
"""

# Exchanges between hosts as in a training run, without the training.
STEPS = (
    HOST[: HOST.index("sys.argv[1:4]")]
    + """
from train.engine.platform import all_hosts
from train.engine.pod import peers_watched
with peers_watched():
    for i in range(10**9):
        all_hosts(True)
        if i == 5:
            print("running", flush=True)
"""
)


def start_hosts(count: int, flags: list[str], program: str = HOST) -> list[subprocess.Popen]:
    """`count` processes with one device each, which form a pod."""
    address = free_address()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # JAX sets the first in this process. Without the second, each host compiles its programs, as in a first run.
    for name in ("TF_CPP_MIN_LOG_LEVEL", "JAX_COMPILATION_CACHE_DIR"):
        environment.pop(name, None)
    environment["TPU_WORKER_HOSTNAMES"] = ",".join(["host"] * count)
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(count), str(i), *flags],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_folder):
    """The output of each of two hosts, and the folder of their run and of the same run in this process."""
    folder = tmp_path_factory.mktemp("pod")
    pictures = write_pictures(folder / "pictures")
    values = {"images": pictures, "model": str(tiny_folder), "cpu": True, "preview_every": 2}
    train_concept(make_config(out=folder / "1", **values), "cpu")
    hosts = start_hosts(2, as_flags(settings(out=folder / "2", **values)))
    outputs = [host.communicate(timeout=600) for host in hosts]
    assert [host.returncode for host in hosts] == [0] * 2, outputs
    return outputs, folder


def test_two_hosts_train_the_same_adapter_as_one(runs):
    _, folder = runs
    one, two = (Adapter.load(folder / name / "adapter.safetensors") for name in ("1", "2"))
    for layer, pair in one.lora["unet"].items():
        for a, b in zip(pair, two.lora["unet"][layer], strict=True):
            # The sum over two hosts is rounded differently, and Adam divides small gradients by themselves.
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(a).max())
    assert one.lora["unet"]


def test_only_the_first_host_writes_and_prints(runs):
    outputs, folder = runs
    (first, _), (second, progress) = outputs
    assert "adapter.safetensors" in first
    # On the second host only the transport prints.
    assert all(line.startswith("[Gloo]") for line in second.splitlines())
    assert "step/s" not in progress
    one, two = ({path.relative_to(folder / name) for path in (folder / name).rglob("*")} for name in ("1", "2"))
    # Within a checkpoint, orbax names files after their content.
    assert {path for path in one if len(path.parts) < 3} == {path for path in two if len(path.parts) < 3}
    assert len((folder / "2" / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("dead", [0, 1])
def test_when_one_host_dies_the_other_ends_with_one_line(dead):
    hosts = start_hosts(2, [], program=STEPS)
    for host in hosts:
        assert "running" in next(line for line in host.stdout if not line.startswith("[Gloo]"))
    hosts[dead].kill()
    _, errors = hosts[1 - dead].communicate(timeout=60)
    hosts[dead].communicate()
    assert hosts[1 - dead].returncode == 2
    assert errors.split() == f"error: {LOST}".split()
