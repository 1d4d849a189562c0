"""What the environment says about other processes of the same job. Nothing heavy is imported here.

Source: the variables of `srun`, of Open MPI, PMI and torchrun, of TPU hosts, and of indexed Jobs of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# The environment variables that jax.distributed reads, and those for what it does not read.
COORDINATOR, COUNT, ID = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Variables that JAX needs for joining the tasks of a Slurm step. Only `srun` sets all of them.
_OF_A_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OF_OPEN_MPI = "OMPI_MCA_orte_hnp_uri"
_BY_HAND = "give --coordinator HOST:PORT, --process-count and --process-id"


class Cluster(NamedTuple):
    """A program that started this process together with others.

    name: in words. count: number of processes; 0 if unknown. method: how `--distributed` is told to join them; "" if
    JAX cannot. way_out: how the processes are joined, or started, otherwise.
    """

    name: str
    count: int
    method: str
    way_out: str


def find_clusters(environment: Mapping[str, str]) -> list[Cluster]:
    """The programs that started more than one process, or an unknown number, as far as `environment` tells."""
    is_step = all(name in environment for name in _OF_A_STEP)
    found = [
        Cluster("a TPU pod", _hosts(environment), "tpu", "give --tpu"),
        Cluster("Slurm", _number(environment, "SLURM_NTASKS"), "slurm" if is_step else "", "start it with srun"),
        Cluster(
            "Open MPI",
            _number(environment, "OMPI_COMM_WORLD_SIZE"),
            "ompi" if _OF_OPEN_MPI in environment else "",
            f"{_BY_HAND}, or --distributed mpi4py",
        ),
        Cluster("MPI", _number(environment, "PMI_SIZE"), "", f"{_BY_HAND}, or --distributed mpi4py"),
        Cluster("torchrun or a program like it", _number(environment, "WORLD_SIZE"), "", _BY_HAND),
    ]
    if "JOB_COMPLETION_INDEX" in environment:
        # Pods of an indexed Job are not told how many they are.
        found.append(
            Cluster(
                "an indexed Job of Kubernetes", 0, "", "give --distributed k8s, or train.concepts --shard for a share"
            )
        )
    return [cluster for cluster in found if cluster.count != 1]


def may_join(environment: Mapping[str, str], words: Sequence[str]) -> bool:
    """Whether the process may become one of several that train together. words: its command line."""
    named = any(word.startswith(("--coordinator", "--process-", "--distributed")) for word in words)
    return named or any(name in environment for name in (COORDINATOR, COUNT)) or bool(find_clusters(environment))


def _hosts(environment: Mapping[str, str]) -> int:
    return len(environment.get("TPU_WORKER_HOSTNAMES", "").split(","))


def _number(environment: Mapping[str, str], name: str) -> int:
    """A whole number above 0; 1 if there is none."""
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and int(text) > 0 else 1
