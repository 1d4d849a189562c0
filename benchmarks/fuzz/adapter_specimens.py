"""Undamaged adapters and LoRAs in every layout that is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.facts import facts_of
from benchmarks.fuzz.inputs import tiny_params
from benchmarks.fuzz.raw_safetensors import RawFile, Tensor
from benchmarks.fuzz.trial import Trial
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.testing.random_adapter import random_adapter
from merge.export.lora_file import export

FILE = "mine.safetensors"  # LoRAs of other programs are named after their files
PEFT_SETTINGS = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 3,
    "use_rslora": False,
    "use_dora": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "init_lora_weights": True,
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "target_modules": ["to_q", "to_k"],
    "modules_to_save": None,
    "inference_mode": True,
    "task_type": None,
    "base_model_name_or_path": "tiny",
}
_KOHYA_TEXTS = {"ss_sd_model_name": "tiny.safetensors", "ss_network_dim": "2", "modelspec.trigger_phrase": "ada man"}


@dataclass(frozen=True)
class Specimen:
    """An undamaged file.

    folder: holds the file and those that belong to it. facts: its content. ours: whether it is an adapter of ours.
    """

    name: str
    folder: Path
    facts: Any
    ours: bool

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return (self.folder / FILE).read_bytes()

    @property
    def raw(self) -> RawFile:
        """The parts of the file, without a digest, so that changes in them must be noticed in other ways."""
        raw = RawFile.read(self.data)
        raw.metadata = {key: text for key, text in raw.metadata.items() if not key.endswith("_digest")}
        return raw

    @property
    def has_digest(self) -> bool:
        """Whether the file has a digest, so that damage to any byte must be noticed. Our own files must have one."""
        return self.ours or "blocklora" in RawFile.read(self.data).metadata

    def trial(self, data: bytes, scratch: Path, **expected: Any) -> Trial:
        """A trial that reads `data` in the place of the file."""
        shutil.copytree(self.folder, scratch, dirs_exist_ok=True)
        (scratch / FILE).write_bytes(data)
        return self.trial_of(scratch / FILE, **expected)

    def trial_of(self, path: Path, accept: tuple[Any, ...] | None = None, **expected: Any) -> Trial:
        """A trial that reads the file at `path`. accept: the allowed results; None: that of the undamaged file."""
        chosen = (self.facts,) if accept is None else accept
        return Trial(call=lambda: facts_of(Adapter.load(path)), accept=chosen, **expected)


def write_specimens(folder: Path) -> None:
    """Write all specimens, each into its own folder."""
    small, large = tiny_params("sd1"), tiny_params("sdxl")
    ours: dict[str, Callable[[], Adapter]] = {
        "ours": lambda: random_adapter("ada", small, slots=(1,)),
        "ours XL": lambda: random_adapter("ada", large, slots=(0, 2)),
        "ours grid": lambda: random_adapter("ada", small, slots=(1,), partition=Partition(num_blocks=2, axis="grid")),
        "ours basis": lambda: random_adapter(
            "ada", small, slots=(1,), partition=Partition(num_blocks=4, basis="0123456789abcdef")
        ),
        "ours plain": lambda: random_adapter("ada", small, slots=(), partition=None),
        "ours bf16": lambda: random_adapter("ada", small, slots=(1,)),
    }
    for name, make in ours.items():
        (folder / name).mkdir()
        make().save(folder / name / FILE, dtype="bfloat16" if "bf16" in name else "float32")
    for layout in ("diffusers", "kohya"):
        (folder / f"export {layout}").mkdir()
        export(
            random_adapter("ada", small, slots=(), partition=None),
            folder / f"export {layout}" / FILE,
            layout,
            card=False,
        )
    plain = random_adapter("ada", large, slots=(), partition=None)
    (folder / "xl").mkdir()
    export(plain, folder / "xl" / FILE, "kohya", card=False)
    raws = {
        name: RawFile.read((folder / name / FILE).read_bytes()) for name in ("export diffusers", "export kohya", "xl")
    }
    shutil.rmtree(folder / "xl")
    for name, raw in _external(raws).items():
        (folder / name).mkdir()
        (folder / name / FILE).write_bytes(raw.pack())
    (folder / "PEFT" / "adapter_config.json").write_text(json.dumps(PEFT_SETTINGS))


def read_specimens(folder: Path) -> list[Specimen]:
    """All specimens, with the content that the library reads from them."""
    names = sorted(path.name for path in folder.iterdir() if (path / FILE).is_file())
    facts = {name: facts_of(Adapter.load(folder / name / FILE)) for name in names}
    return [Specimen(name, folder / name, facts[name], name.startswith("ours")) for name in names]


def _external(raws: dict[str, RawFile]) -> dict[str, RawFile]:
    """Files as other programs write them: without our header texts, in other precisions, with other alphas."""
    diffusers, kohya, large = raws["export diffusers"].tensors, raws["export kohya"].tensors, raws["xl"].tensors
    unet = [tensor for tensor in diffusers if tensor.name.startswith("unet.")]
    return {
        "diffusers": RawFile([tensor.cast("F16") for tensor in diffusers], {"format": "pt"}),
        "kohya": RawFile([_alpha(tensor) for tensor in kohya], dict(_KOHYA_TEXTS)),
        "kohya XL": RawFile([_alpha(tensor).cast("BF16") for tensor in large], dict(_KOHYA_TEXTS)),
        "LoCon": RawFile(_convolution() + [_alpha(tensor) for tensor in kohya[:6]], {}),
        "PEFT": RawFile([_named(t, t.name.replace("unet.", "base_model.model.", 1)) for t in unet], {"format": "pt"}),
        "old diffusers": RawFile([_old(tensor) for tensor in unet if ".attn" in tensor.name], {}),
    }


def _alpha(tensor: Tensor) -> Tensor:
    """`tensor`; if it is an alpha, 1. The rank is 2."""
    return tensor.filled(1.0) if tensor.name.endswith(".alpha") else tensor


def _named(tensor: Tensor, name: str) -> Tensor:
    return replace(tensor, name=name)


def _old(tensor: Tensor) -> Tensor:
    head, layer, role, _ = tensor.name.replace(".to_out.0", ".to_out").rsplit(".", 3)
    return _named(tensor, f"{head}.processor.{layer}_lora.{'down' if role == 'lora_A' else 'up'}.weight")


def _convolution() -> list[Tensor]:
    rng, name = np.random.default_rng(7), "lora_unet_down_blocks_0_resnets_0_conv1"
    shapes = {"lora_down.weight": (2, 8, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (8, 2, 1, 1)}
    arrays = {f"{name}.{role}": rng.standard_normal(shape, np.float32) for role, shape in shapes.items()}
    return RawFile.make({**arrays, f"{name}.alpha": np.array(1.0, np.float32)}).tensors
