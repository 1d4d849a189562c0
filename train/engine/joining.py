"""Whether and how this process joins others, so that they train together as one program."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError
from train.engine.clusters import COORDINATOR, COUNT, ID, Cluster, find_clusters

Method = Literal["auto", "off", "slurm", "ompi", "mpi4py", "tpu", "k8s"]
# JAX finds these by itself, and has no name for them as a group.
_UNNAMED = ("tpu", "k8s")


@dataclass(frozen=True, kw_only=True)
class JoiningSettings:
    """How several processes train together as one program."""

    distributed: Method = "auto"
    """Join the other processes that a cluster started. auto: those of a TPU pod, Slurm's srun or Open MPI, and those
    that --coordinator names. off: train alone. The others name the cluster; k8s is GKE too."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where no cluster says it (or $JAX_COORDINATOR_ADDRESS)."""
    process_count: int | None = None
    """Number of processes that train together (or $JAX_NUM_PROCESSES)."""
    process_id: int | None = None
    """This process's number among them, from 0 (or $JAX_PROCESS_ID)."""

    def __post_init__(self) -> None:
        check_options(self)
        named = [self.coordinator, self.process_count, self.process_id]
        if self.distributed == "off" and named != [None, None, None]:
            raise UserError("--distributed off trains alone: leave out --coordinator, --process-count and --process-id")
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdecimal():
            raise UserError(f"--coordinator {self.coordinator!r} must be HOST:PORT, such as 10.0.0.2:8476")

    def arguments(self, environment: Mapping[str, str], tpu: bool = False) -> dict[str, Any] | None:
        """Arguments for `jax.distributed.initialize`; None if the process trains alone.

        tpu: whether the user asked for TPUs. Raises: UserError for an incomplete or impossible place in the job.
        """
        if self.distributed == "off":
            return None
        named = {
            "coordinator_address": self.coordinator or environment.get(COORDINATOR),
            "num_processes": _first(self.process_count, environment, COUNT),
            "process_id": _first(self.process_id, environment, ID),
        }
        given = {name: value for name, value in named.items() if value is not None}
        if self.distributed != "auto":
            method = {} if self.distributed in _UNNAMED else {"cluster_detection_method": self.distributed}
            return given | method
        if len(given) == len(named):
            _check_place(given["process_id"], given["num_processes"])
            # Nothing is left to be found. Slurm and Open MPI would give each process one device of its host.
            return given | {"cluster_detection_method": "deactivate"}
        joined = [c for c in find_clusters(environment) if c.method and (tpu or c.method != "tpu")]
        if joined:
            return given | ({} if joined[0].method in _UNNAMED else {"cluster_detection_method": joined[0].method})
        if given:
            raise UserError(
                "processes that no cluster joins need --coordinator, --process-count and --process-id together (or "
                f"${COORDINATOR}, ${COUNT} and ${ID})"
            )
        return None


def join_others(settings: JoiningSettings, tpu: bool = False, cpu: bool = False) -> None:
    """Join the other processes as `settings` say, before JAX looks for devices. Training alone by mistake is reported.

    tpu, cpu: the platform that the user asked for.
    Raises: UserError if the others cannot be joined.
    """
    arguments = settings.arguments(os.environ, tpu)
    if arguments is None and tpu and settings.distributed == "auto" and _is_cloud_tpu():
        _join_if_pod()
        return
    if arguments is None:
        if settings.distributed == "auto" and (line := alone_line(find_clusters(os.environ), cpu)):
            print(line, file=sys.stderr, flush=True)
        return
    # Imported late, because the settings are read without JAX.
    from train.engine.pod import join_pod

    try:
        join_pod(**arguments)
    except (RuntimeError, ValueError, KeyError, OSError, ImportError) as error:
        raise UserError(
            f"this process cannot join the others ({_words(error)}): check --coordinator, --process-count and "
            "--process-id, or train alone with --distributed off"
        ) from error


def _is_cloud_tpu() -> bool:
    """Whether JAX has found TPUs on a machine of Google. It says so in the environment when it is imported."""
    import jax  # noqa: F401

    return os.environ.get("TPU_ML_PLATFORM") == "JAX"


def _join_if_pod() -> None:
    """Join the other hosts, which only the metadata of a machine names. If it has none, the process trains alone."""
    from train.engine.pod import join_pod

    try:
        join_pod()
    except (ValueError, OSError) as error:
        # ValueError: JAX knows of no others. OSError: there is no metadata server.
        print(f"training on this TPU machine alone ({_words(error)})", file=sys.stderr, flush=True)


def alone_line(clusters: list[Cluster], cpu: bool = False) -> str:
    """The line for a process that trains alone, although a cluster started several; "" if none did.

    cpu: whether the user asked for the CPU. Then a TPU pod is not meant.
    """
    others = [cluster for cluster in clusters if not (cpu and cluster.method == "tpu")]
    if not others:
        return ""
    cluster = others[0]
    count = f"{cluster.count} processes" if cluster.count else "processes"
    return (
        f"warning: {cluster.name} started {count}, but this one trains alone: to train together, {cluster.way_out}; "
        "--distributed off says that alone is meant"
    )


def _first(value: int | None, environment: Mapping[str, str], name: str) -> int | None:
    if value is not None or name not in environment:
        return value
    text = environment[name]
    if not (text.isascii() and text.isdecimal()):
        raise UserError(f"${name} must be a whole number, not {text!r:.60}")
    return int(text)


def _check_place(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise UserError(f"--process-id {index} must be below --process-count {count}: they are counted from 0")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
