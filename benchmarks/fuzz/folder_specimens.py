"""Undamaged Diffusers folders: as other programs write them, one for each family, and one that our merge wrote."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.fuzz.facts import facts_of
from benchmarks.fuzz.inputs import PROMPTS, tiny_checkpoint
from benchmarks.fuzz.raw_safetensors import RawFile
from benchmarks.fuzz.trial import Trial
from blocklora_jax.checkpoints.diffusers import save_folder
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main as merge_main

MANIFEST = "blocklora.json"


@dataclass(frozen=True)
class Folder:
    """An undamaged folder. ours: whether our merge wrote it, so that all damage must be noticed."""

    name: str
    path: Path
    facts: Any
    ours: bool

    def files(self, ending: str) -> list[str]:
        """The files with this ending, such as "unet/config.json"."""
        paths = (path for path in self.path.rglob(f"*{ending}") if path.is_file())
        return sorted(path.relative_to(self.path).as_posix() for path in paths)

    def copy(self, scratch: Path, *changed: str) -> Path:
        """A copy in `scratch` with links to the same files, without the files `changed`."""
        target = scratch / "model"
        for name in self.files(""):
            if name not in changed:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.path / name, target / name)
        return target

    def trial(self, scratch: Path, name: str, data: bytes, accept: tuple[Any, ...] = (), **expected: Any) -> Trial:
        """A trial that loads the folder with other bytes in the file `name`. The unchanged result is always allowed."""
        target = self.copy(scratch, name) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return self.trial_of(scratch / "model", (self.facts, *accept), **expected)

    def trial_of(self, path: Path, accept: tuple[Any, ...], **expected: Any) -> Trial:
        """A trial that loads the folder at `path`."""
        return Trial(call=lambda: folder_facts(path), accept=accept, **expected)


def folder_facts(path: Path) -> Any:
    """Everything that determines pictures: configs, parameters, schedule, and the token ids of prompts."""
    model = StableDiffusion.from_pretrained(str(path))
    facts = facts_of(
        {
            "configs": model.checkpoint.configs, "params": model.params, "schedule": model.schedule,
            "ids": model.tokenizer.encode(PROMPTS), "zeros": model.checkpoint.force_zeros_for_empty_prompt,
        }
    )  # fmt: skip
    facts["schedule"].pop("bookkeeping", None)  # does not change pictures
    return facts


def write_folders(folder: Path) -> None:
    """Write all folders below `folder`."""
    for family in ("sd1", "sd2", "sdxl"):
        checkpoint = tiny_checkpoint(family, folder / f"{family} words")
        save_folder(folder / family, checkpoint)
        if family == "sd1":
            write_merged(folder, dict(checkpoint.params))
        shutil.rmtree(folder / f"{family} words")
        _as_others_do(folder / family)
    shutil.copytree(folder / "sd1", folder / "sharded")
    _shard(folder / "sharded" / "unet" / "diffusion_pytorch_model.safetensors")


def write_merged(folder: Path, params: dict[str, Any]) -> Path:
    """Merge two adapters into the folder `sd1` with the command; returns the new folder "ours"."""
    for slot, name in enumerate(("ada", "bob")):
        random_adapter(name, params, slots=(slot,)).save(folder / f"{name}.safetensors")
    files = [str(folder / f"{name}.safetensors") for name in ("ada", "bob")]
    with redirect_stdout(StringIO()):
        merge_main([*files, "--model", str(folder / "sd1"), "--save", str(folder / "ours")])
    return folder / "ours"


def read_folders(folder: Path) -> list[Folder]:
    """All folders, with what the library reads from them."""
    names = sorted(path.name for path in folder.iterdir() if (path / "model_index.json").is_file())
    return [Folder(name, folder / name, folder_facts(folder / name), name == "ours") for name in names]


def _as_others_do(folder: Path) -> None:
    """Remove what only our program writes."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.rglob("*.safetensors"):
        raw = RawFile.read(path.read_bytes())
        path.write_bytes(RawFile(raw.tensors, {"format": "pt"}).pack())


def _shard(path: Path) -> None:
    """Split a weight file in two, with an index."""
    raw, stem = RawFile.read(path.read_bytes()), path.name.removesuffix(".safetensors")
    weight_map = {}
    for number in (0, 1):
        name = f"{stem}-0000{number + 1}-of-00002.safetensors"
        part = raw.tensors[number::2]
        (path.parent / name).write_bytes(RawFile(part, {"format": "pt"}).pack())
        weight_map |= {tensor.name: name for tensor in part}
    index = {"metadata": {"total_size": sum(len(tensor.data) for tensor in raw.tensors)}, "weight_map": weight_map}
    (path.parent / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()
