"""Sound adapters and LoRAs of every layout that is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.facts import facts_of
from benchmarks.fuzz.inputs import tiny_adapter, tiny_params
from benchmarks.fuzz.raw_safetensors import RawFile, Tensor
from benchmarks.fuzz.trial import Trial
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
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
    """A sound file.

    folder: holds it, and what belongs to it. facts: what it gives. ours: whether it is an adapter of ours.
    """

    name: str
    folder: Path
    facts: Any
    ours: bool

    @property
    def data(self) -> bytes:
        """Its bytes."""
        return (self.folder / FILE).read_bytes()

    @property
    def raw(self) -> RawFile:
        """Its parts, without a digest: what is changed in them shall be found by other means."""
        raw = RawFile.read(self.data)
        raw.metadata = {key: text for key, text in raw.metadata.items() if not key.endswith("_digest")}
        return raw

    @property
    def has_digest(self) -> bool:
        """Whether damage to any byte must be noticed. Files of ours have to have one."""
        return self.ours or "blocklora" in RawFile.read(self.data).metadata

    def trial(self, data: bytes, scratch: Path, **expected: Any) -> Trial:
        """Read `data` in the place of the specimen."""
        shutil.copytree(self.folder, scratch, dirs_exist_ok=True)
        (scratch / FILE).write_bytes(data)
        return self.trial_of(scratch / FILE, **expected)

    def trial_of(self, path: Path, accept: tuple[Any, ...] | None = None, **expected: Any) -> Trial:
        """Read the file at `path`; unless `accept` says otherwise, what the sound file gives may come out."""
        chosen = (self.facts,) if accept is None else accept
        return Trial(call=lambda: facts_of(Adapter.load(path)), accept=chosen, **expected)


def write_specimens(folder: Path) -> None:
    """Write all of them, each into a folder of its own."""
    small, large = tiny_params("sd1"), tiny_params("sdxl")
    ours: dict[str, Callable[[], Adapter]] = {
        "ours": lambda: tiny_adapter("ada", small),
        "ours XL": lambda: tiny_adapter("ada", large, family="sdxl", slots=(0, 2)),
        "ours grid": lambda: tiny_adapter("ada", small, partition=Partition(num_blocks=2, axis="grid")),
        "ours basis": lambda: tiny_adapter("ada", small, partition=Partition(num_blocks=4, basis="0123456789abcdef")),
        "ours plain": lambda: tiny_adapter("ada", small, partition=None),
        "ours bf16": lambda: tiny_adapter("ada", small),
    }
    for name, make in ours.items():
        (folder / name).mkdir()
        make().save(folder / name / FILE, dtype="bfloat16" if "bf16" in name else "float32")
    for layout in ("diffusers", "kohya"):
        (folder / f"export {layout}").mkdir()
        export(tiny_adapter("ada", small, partition=None), folder / f"export {layout}" / FILE, layout, card=False)
    plain = tiny_adapter("ada", large, family="sdxl", partition=None)
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
    """All of them, with what the library makes of them today."""
    names = sorted(path.name for path in folder.iterdir() if (path / FILE).is_file())
    facts = {name: facts_of(Adapter.load(folder / name / FILE)) for name in names}
    return [Specimen(name, folder / name, facts[name], name.startswith("ours")) for name in names]


def _external(raws: dict[str, RawFile]) -> dict[str, RawFile]:
    """As other programs would have written them: no texts of ours, other precisions, alphas of their own."""
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
    """alpha 1 where the rank is 2."""
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
