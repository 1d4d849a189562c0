"""Training with an average, accumulation and another optimizer from end to end: resumed, and without previews."""

from __future__ import annotations

import shutil
from typing import Any

import jax
import numpy as np
import pytest
from concept_builders import make_config, write_pictures

from blocklora_jax import Adapter
from blocklora_jax.adapters.file import read_header
from blocklora_jax.errors import UserError
from train.concept.run import train_concept

SETTINGS: dict[str, Any] = {
    "ema": 0.9, "accumulate": 2, "optimizer": "adafactor", "schedule": "linear", "previews": False, "cpu": True,
}  # fmt: skip


def test_a_resumed_run_gives_the_same_average_bit_for_bit(tiny_folder, tmp_path):
    def train(out: str, **changes: Any) -> bytes:
        images = tmp_path / "pictures"
        config = make_config(images=images, model=str(tiny_folder), out=tmp_path / out, **SETTINGS | changes)
        return train_concept(config, "cpu").read_bytes()

    write_pictures(tmp_path / "pictures")
    whole = train("whole")
    assert not (tmp_path / "whole" / "previews").exists()
    header = read_header(tmp_path / "whole" / "adapter.safetensors")
    assert {name: header["training"].get(name) for name in ("ema", "accumulate", "optimizer", "schedule")} == {
        "ema": 0.9, "accumulate": 2, "optimizer": "adafactor", "schedule": "linear",
    }  # fmt: skip
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (tmp_path / "resumed" / "adapter.safetensors").unlink()
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "4")
    assert train("resumed", resume=True) == whole
    # Training itself is the same without an average. Only what is saved differs.
    train("last", ema=0.0)
    one, other = (Adapter.load(tmp_path / name / "adapter.safetensors") for name in ("whole", "last"))
    pairs = zip(jax.tree.leaves(one.lora), jax.tree.leaves(other.lora), strict=True)
    assert any(np.abs(x - y).max() > 0 for x, y in pairs)
    with pytest.raises(UserError, match=r"ema was 0.9, now 0.0"):
        train("resumed", resume=True, ema=0.0)
