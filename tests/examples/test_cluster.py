"""The files of examples/cluster: their scripts run here with a Python that only writes down how it was called."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from blocklora_jax.command_line.options import flag_types, read_options
from train.concept.config import ConceptConfig, read_flags
from train.concepts_options import ConceptsOptions

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
PLACE = {"OUT": "/shared/run", "CONCEPTS": "concepts.yaml", "HOME": "/root"}


@pytest.fixture
def call(tmp_path):
    """Runs a script; returns the words of the first call of each program that it needs."""
    for name in ("python", "srun", "scontrol", "gcloud"):
        text = f'#!/bin/bash\nfor word in "$0" "$@"; do printf "%s\\n" "$word"; done >> {tmp_path}/calls\n'
        # A machine that is not there yet.
        text += 'case "$*" in *describe*) exit 1;; esac\n'
        text += (
            f'for word in "$@"; do case "$word" in startup-script=*) cp "${{word#*=}}" {tmp_path}/start;; esac; done\n'
        )
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(script: str, **environment: str) -> list[str]:
        path = f"{tmp_path}:/usr/bin:/bin"
        done = subprocess.run(["bash", "-c", script], env={"PATH": path, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []

    return run


def options_of(words: list[str]) -> ConceptsOptions:
    """The options of the call of train.concepts in `words`. Every flag must be one that the command has."""
    flags = words[words.index("train.concepts") + 1 :]
    options, rest = read_options(ConceptsOptions, flags, prog="x", return_unknown_args=True)
    known = {f"--{name.replace('_', '-')}" for name in flag_types(ConceptConfig)} | {"--config"}
    assert {word for word in read_flags(rest) if word.startswith("--")} <= known | {"--lambda", "--no-previews"} | {
        f"--no-{name[2:]}" for name in known
    }
    return options


def test_a_task_of_a_slurm_array_trains_its_share(call):
    script = (CLUSTER / "slurm_array.sbatch").read_text()
    words = call(script, **PLACE, SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="8")
    assert options_of(words).shard == "3/8"
    assert options_of(words).out == Path("/shared/run")


def test_a_pod_of_an_indexed_job_trains_its_share(call):
    job = yaml.safe_load((CLUSTER / "kubernetes_indexed_job.yaml").read_text())
    assert job["spec"]["completionMode"] == "Indexed"
    [container] = job["spec"]["template"]["spec"]["containers"]
    values = {each["name"]: each["value"] for each in container["env"]}
    assert int(values["SHARES"]) == job["spec"]["completions"]
    [script] = container["args"]
    options = options_of(call(script, **values, JOB_COMPLETION_INDEX="5"))
    assert (options.shard, options.out) == ("5/8", Path("gs://my-bucket/run"))


def test_a_node_of_skypilot_trains_its_share(call):
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    values = {**task["envs"], "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": str(task["num_nodes"])}
    assert options_of(call(task["run"], **values)).shard == "1/8"


def test_every_tpu_machine_gets_a_script_for_its_share(call, tmp_path):
    script = (CLUSTER / "tpu_queued_resources.sh").read_text()
    words = call(script, PROJECT="p", ZONE="z", BUCKET="gs://b", SHARES="2", TMPDIR=str(tmp_path))
    assert [word for word in words if word.startswith("concepts-")] == ["concepts-0"] * 3 + ["concepts-1"] * 3
    started = next(line for line in (tmp_path / "start").read_text().splitlines() if "train.concepts" in line)
    options = options_of(shlex.split(started))
    assert (options.shard, options.out, options.wait) == ("1/2", Path("gs://b/run"), True)


def test_one_large_job_is_resumed_if_it_was_begun(call, tmp_path):
    script = (CLUSTER / "one_large_job.sbatch").read_text()
    assert options_of(call(script, SLURM_JOB_ID="7", OUT=str(tmp_path / "new"))).shard is None
    (tmp_path / "calls").unlink()
    (tmp_path / "old" / "groups").mkdir(parents=True)
    assert "--resume" in call(script, SLURM_JOB_ID="7", OUT=str(tmp_path / "old"))


def test_the_example_for_ray_can_be_read():
    text = (CLUSTER / "ray_shares.py").read_text()
    compile(text, "ray_shares.py", "exec")
    assert os.access(CLUSTER / "tpu_queued_resources.sh", os.X_OK)
