"""The inputs of the commands: usable and unusable files."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz.folder_specimens import write_merged
from benchmarks.fuzz.inputs import tiny_checkpoint
from benchmarks.fuzz.raw_safetensors import RawFile
from benchmarks.fuzz.trial import ANYTHING, Trial
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.checkpoints.single_file import save_single_file
from blocklora_jax.testing.random_adapter import random_adapter
from merge.export.lora_file import export

EVIL = "\x1b[31mred\x1b]0;owned\x07"
REGISTRY: dict[str, Any] = {
    "blocklora_registry": 1,
    "base_name": "",
    "base_digest": "",
    "partition": {"num_blocks": 4, "axis": "in", "seed": 0},
    "entries": [{"name": "ada", "token": "<ada>", "slots": [0], "owner": "Ada", "date": "2026-11-21"}],
}


def write_inputs(folder: Path) -> None:
    """Write all inputs into `folder`."""
    checkpoint = tiny_checkpoint("sd1", folder / "words")
    params = dict(checkpoint.params)
    save_folder(folder / "sd1", checkpoint)
    save_single_file(folder / "single.safetensors", checkpoint)
    write_merged(folder, params).rename(folder / "merged")
    (folder / "sd1").rename(folder / "model")
    random_adapter("cyd", params, slots=(), partition=None).save(folder / "plain.safetensors")
    random_adapter("dan", params, slots=(0,)).save(folder / "collides.safetensors")
    export(random_adapter("eve", params, slots=(), partition=None), folder / "lora.safetensors", "kohya", card=False)
    for name in ("single", "lora"):
        # As another program would write them. Our commands must not replace them without being asked to.
        raw = RawFile.read((folder / f"{name}.safetensors").read_bytes())
        (folder / f"{name}.safetensors").write_bytes(RawFile(raw.tensors, {"format": "pt"}).pack())
    _write_evil(folder)
    (folder / "registry.json").write_text(json.dumps(REGISTRY))
    (folder / "notes.txt").write_text("mine\n")
    (folder / "pictures").mkdir()
    (folder / "empty").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    settings = {
        name: {"class_noun": "man", "images": "pictures", "slot": slot} for slot, name in enumerate(("ada", "bob"))
    }
    (folder / "concepts.yaml").write_text(json.dumps(settings))


def _write_evil(folder: Path) -> None:
    """Write an adapter and a registry whose texts have control characters for a terminal."""
    raw = RawFile.read((folder / "ada.safetensors").read_bytes())
    header = json.loads(raw.metadata["blocklora"])
    texts = dict.fromkeys(("class_noun", "trigger", "base_name"), EVIL)
    for name, fields in {"evil": texts, "evil_name": {"name": EVIL}, "escaped": {"name": "../../escaped"}}.items():
        metadata = {"blocklora": json.dumps({**header, **fields})}
        (folder / f"{name}.safetensors").write_bytes(RawFile(raw.tensors, metadata).pack())
    entries = [{**REGISTRY["entries"][0], field: EVIL} for field in ("owner", "date", "name")]
    for number, entry in enumerate(entries):
        (folder / f"evil{number}.json").write_text(json.dumps({**REGISTRY, "entries": [entry]}))


def command_trial(
    inputs: Path,
    scratch: Path,
    module: str,
    args: Sequence[str],
    *,
    refuse: bool = False,
    must_succeed: bool = False,
    apart_process: bool = False,
) -> Trial:
    """A trial that runs `python -m module args` in a folder with all inputs, which must not change.

    refuse: the command must fail. must_succeed: it must succeed. apart_process: run it in a separate process.
    """
    expected = _link_all(inputs, scratch)
    os.symlink("/dev/zero", scratch / "zero")
    os.mkfifo(scratch / "pipe")
    os.symlink("loop", scratch / "loop")
    run = _in_process if apart_process else _here
    return Trial(
        call=lambda: run(module, list(args)),
        accept=() if refuse else (ANYTHING,),
        must_load=must_succeed,
        is_command=True,
        intact=_checker(scratch, {name: mark for name, mark in expected.items() if not _is_remade(name, args)}),
    )


def _here(module: str, args: list[str]) -> None:
    sys.argv = [f"python -m {module}", *args]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules.*")
        # alter_sys=True, because option classes are looked up in the module that runs.
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def _in_process(module: str, args: list[str]) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", module, *args]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, "PYTHONPATH": path}
    )
    os.write(1, done.stdout)
    os.write(2, done.stderr)
    raise SystemExit(done.returncode)


def _link_all(inputs: Path, scratch: Path) -> dict[str, tuple[int, int, int]]:
    """Link every file of `inputs` into `scratch`; returns the `_mark` of each by name."""
    expected = {}
    for path in sorted(inputs.rglob("*")):
        name = path.relative_to(inputs).as_posix()
        if path.is_dir():
            (scratch / name).mkdir(parents=True, exist_ok=True)
        else:
            os.link(path, scratch / name)
            expected[name] = _mark(scratch / name)
    return expected


def _mark(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_remade(name: str, args: Sequence[str]) -> bool:
    """Whether the call saves into the folder of an earlier merge, which it may replace."""
    return name.startswith("merged/") and ["--save", "merged"] in [list(args[at : at + 2]) for at in range(len(args))]


def _checker(scratch: Path, expected: dict[str, tuple[int, int, int]]) -> Callable[[], str]:
    def check() -> str:
        lost = [name for name in expected if not (scratch / name).is_file()]
        other = [name for name, mark in expected.items() if name not in lost and _mark(scratch / name) != mark]
        # Some commands are asked to change the registry.
        other = [name for name in other if not name.endswith(".json") or "/" in name]
        escaped = [p.name for p in (scratch.parent, scratch.parent.parent) for p in p.glob("escaped*")]
        changes = {"lost": lost, "replaced": other, "written outside": escaped}
        return "; ".join(f"{words}: {', '.join(names[:4])}" for words, names in changes.items() if names)

    return check
