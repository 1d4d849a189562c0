"""How a process finds the others of its job, from flags and from what clusters put into the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from addresses import free_address
from concept_builders import make_config

from blocklora_jax.errors import UserError
from train.engine.clusters import find_clusters, may_join
from train.engine.joining import JoiningSettings, alone_line, join_others

ROOT = Path(__file__).parents[3]
STEP = {
    "SLURM_JOB_ID": "71", "SLURM_STEP_NODELIST": "node[001-002]", "SLURM_NTASKS": "4", "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}  # fmt: skip
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.96.0.1:34911"}
POD = {"TPU_WORKER_HOSTNAMES": "a,b"}
BY_HAND = JoiningSettings(coordinator="a:1", process_count=2, process_id=1)


@pytest.mark.parametrize(
    ("settings", "environment", "arguments"),
    [
        (JoiningSettings(), {}, None),
        (JoiningSettings(), STEP, {"cluster_detection_method": "slurm"}),
        (JoiningSettings(), STEP | {"SLURM_NTASKS": "1"}, None),
        (JoiningSettings(), OPEN_MPI, {"cluster_detection_method": "ompi"}),
        (JoiningSettings(distributed="off"), STEP | OPEN_MPI | POD, None),
        (JoiningSettings(distributed="k8s"), {}, {}),
        (JoiningSettings(distributed="mpi4py"), {}, {"cluster_detection_method": "mpi4py"}),
        (
            BY_HAND, STEP,
            {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1,
             "cluster_detection_method": "deactivate"},
        ),
        (
            JoiningSettings(process_id=1), {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_NUM_PROCESSES": "3"},
            {"coordinator_address": "b:2", "num_processes": 3, "process_id": 1,
             "cluster_detection_method": "deactivate"},
        ),
    ],
)  # fmt: skip
def test_flags_and_the_environment_say_how_a_process_joins(settings, environment, arguments):
    assert settings.arguments(environment) == arguments


def test_a_pod_is_joined_only_for_tpus():
    assert JoiningSettings().arguments(POD, tpu=True) == {}
    assert JoiningSettings().arguments(POD) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({k: v for k, v in STEP.items() if k != "SLURM_STEP_NODELIST"}, "Slurm started 4 processes, .* with srun"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI started 2 processes, .* give --coordinator HOST:PORT"),
        ({"WORLD_SIZE": "8"}, "torchrun or a program like it started 8"),
        ({"JOB_COMPLETION_INDEX": "3"}, "an indexed Job of Kubernetes started processes, .* --distributed k8s"),
        (POD, "a TPU pod started 2 processes, but this one trains alone: to train together, give --tpu"),
    ],
)
def test_a_process_that_trains_alone_by_mistake_says_so(environment, message):
    assert re.search(message, alone_line(find_clusters(environment)))


def test_a_process_that_is_alone_on_purpose_says_nothing():
    assert alone_line(find_clusters({"SLURM_NTASKS": "1", "WORLD_SIZE": "1", "TPU_WORKER_HOSTNAMES": "a"})) == ""
    assert alone_line(find_clusters(POD), cpu=True) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distributed": "off", "process_id": 0}, "--distributed off trains alone: leave out"),
        ({"coordinator": "somewhere"}, "--coordinator 'somewhere' must be HOST:PORT"),
        ({"process_count": 0}, "--process-count must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make_config(**settings)


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ({"process_id": 0}, {}, "need --coordinator, --process-count and --process-id together"),
        ({"coordinator": "a:1", "process_count": 2, "process_id": 2}, {}, "--process-id 2 must be below"),
        ({}, {"JAX_NUM_PROCESSES": "two"}, r"\$JAX_NUM_PROCESSES must be a whole number, not 'two'"),
    ],
)
def test_an_impossible_place_in_the_job_is_refused(settings, environment, message):
    with pytest.raises(UserError, match=message):
        JoiningSettings(**settings).arguments(environment)


def test_how_a_process_joined_is_in_no_file():
    assert make_config(coordinator="a:1", process_id=0, process_count=2).to_json() == make_config().to_json()


def test_output_of_the_transports_is_silenced_only_in_processes_that_may_join():
    assert may_join(STEP, ())
    assert may_join({}, ["--coordinator=a:1"])
    assert not may_join({"SLURM_NTASKS": "1"}, ["--out", "run"])


@pytest.mark.parametrize("is_pod", [True, False])
def test_on_a_tpu_machine_the_metadata_says_whether_there_are_others(is_pod, monkeypatch, capsys):
    calls = []

    def join(**how):
        calls.append(how)
        if not is_pod:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("train.engine.pod.join_pod", join)
    join_others(JoiningSettings(), tpu=True)
    assert calls == []
    monkeypatch.setenv("TPU_ML_PLATFORM", "JAX")
    join_others(JoiningSettings(), tpu=True)
    assert calls == [{}]
    assert ("training on this TPU machine alone" in capsys.readouterr().err) is not is_pod


PROGRAM = """
import sys, train, jax
from train.engine.joining import JoiningSettings
from train.engine.platform import select_platform
flags = dict(zip(("coordinator", "process_count", "process_id"), sys.argv[1:]))
select_platform(cpu=True, joining=JoiningSettings(**{k: int(v) if v.isdecimal() else v for k, v in flags.items()}))
print("of", jax.process_count(), "on", jax.default_backend(), "number", jax.process_index())
"""


def start(words: list[str], **more: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # the programs are small
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_two_processes_join_on_cpus_as_slurm_tells_them():
    address = free_address()
    # JAX takes the first node's name and, if given, this port.
    step = STEP | {
        "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": address.split(":")[1],
    }  # fmt: skip
    started = [start([], **step | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]
    for i, process in enumerate(started):
        output, errors = process.communicate(timeout=120)
        assert f"of 2 on cpu number {i}" in output, errors


def test_two_processes_join_by_flags_and_by_the_environment():
    address = free_address()
    by_environment = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    started = [start([address, "2", "0"]), start([], **by_environment)]
    for i, process in enumerate(started):
        output, errors = process.communicate(timeout=120)
        assert f"of 2 on cpu number {i}" in output, errors
