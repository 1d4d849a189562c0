"""`python -m train.concept`: a few steps that are saved often."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.numpy import load_file

from benchmarks.kill.inputs import MODEL, PICTURES
from benchmarks.kill.launch import Command, run
from benchmarks.kill.state import Findings, is_temporary, read_state
from benchmarks.kill.trial import Scenario

RUN = "run"
SETTINGS = (
    "--config feature_blocks --cpu --rank 2 --blocks 4 --slot 1"
    " --steps 8 --batch 2 --random-batch 2 --layers cross_kv --warmup-steps 1"
    " --log-every 1 --save-every 2 --preview-every 4 --random-subjects dog owl --token <ada> --class-noun man"
).split()
PROMPTS = ("--preview-prompts", "a <ada> man", "--random-styles", "a photo of", "--random-scenes", "in the snow")


def training_command(inputs: Path, out: Path, *flags: str) -> Command:
    """The command that trains on the pictures of `inputs` (see inputs.py)."""
    places = ("--images", str(inputs / PICTURES), "--model", str(inputs / MODEL), "--out", str(out))
    return Command("train.concept", (*places, *SETTINGS, *PROMPTS, *flags))


def training_scenario(inputs: Path) -> Scenario:
    """Training. It is restarted with --resume if the folder already has the run's settings."""

    def restart(folder: Path) -> Command:
        begun = (folder / RUN / "config.json").exists()
        return training_command(inputs, folder / RUN, *(("--resume",) if begun else ()))

    return Scenario(
        name="training",
        command=lambda folder: training_command(inputs, folder / RUN),
        restart=restart,
        read=read_run,
        check=check_checkpoints,
        growing=(f"{RUN}/metrics.jsonl",),
    )


def read_run(folder: Path) -> dict[str, str]:
    """The state of a run folder, without what differs between runs: times, random names, whether it was resumed."""
    state = {
        name: digest
        for name, digest in read_state(folder).items()
        if is_temporary(name) or not name.startswith(f"{RUN}/checkpoints/")
    }
    for name, normal in {"metrics.jsonl": _losses, "config.json": _settings, "adapter.safetensors": _tensors}.items():
        if f"{RUN}/{name}" in state:
            state[f"{RUN}/{name}"] = _digest(normal, folder / RUN / name)
    return state


def check_checkpoints(folder: Path) -> Findings:
    """Findings: the checkpoints with a final name that cannot be read."""
    log = folder.with_name("restored.txt")
    code = run(Command("benchmarks.kill.restore", (str(folder / RUN / "checkpoints"),)), log)
    names = log.read_text().splitlines()[-1].split() if code else []
    return Findings(half_written=[f"{RUN}/checkpoints/{name}" for name in names])


def _digest(normal, path: Path) -> str:
    try:
        return hashlib.sha256(repr(normal(path)).encode()).hexdigest()
    except Exception as error:  # the file may be cut short anywhere
        return f"cannot be read: {error}"


def _losses(path: Path) -> list:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "steps_per_second"} for line in lines]


def _settings(path: Path) -> dict:
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "resume"}


def _tensors(path: Path) -> list:
    return [(key, value.dtype, value.shape, value.tobytes()) for key, value in sorted(load_file(path).items())]
