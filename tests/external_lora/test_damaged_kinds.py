"""Files of every kind with one part missing or of another shape are read, or named in one line."""

from __future__ import annotations

import numpy as np
import pytest
from lycoris_files import KINDS, file_of, make
from safetensors.numpy import save_file

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.testing.small_families import make_family

LAYERS = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "up_blocks.0.resnets.0.conv1"]


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return make_family("sd1", tmp_path_factory.mktemp("sd1"))


def other_shapes(shape):
    """Shapes near this one."""
    for axis in range(len(shape)):
        yield tuple(size + (1 if i == axis else 0) for i, size in enumerate(shape))
        yield tuple(0 if i == axis else size for i, size in enumerate(shape))
    yield from (shape[::-1], (*shape, 1), shape[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_part_gives_one_line_or_an_adapter(kind, sd1, tmp_path):
    weights, path, errors = to_torch("unet", sd1.params["unet"]), tmp_path / "a.safetensors", []
    for layer in LAYERS:
        parts, _, _ = make(kind, weights[f"{layer}.weight"], weights.get(f"{layer}.bias"), 0)
        damaged = [{name: x for name, x in parts.items() if name != missing} for missing in parts if len(parts) > 1]
        for name, part in parts.items():
            # The same numbers again and again, so that only the shape is wrong.
            resized = (np.resize(part, shape).astype(part.dtype) for shape in other_shapes(part.shape))
            damaged += [{**parts, name: x} for x in resized]
        for each in damaged:
            save_file(file_of({"lora_unet_" + layer.replace(".", "_"): each}), path)
            try:
                adapter = Adapter.load(path, base=sd1.params, max_rank=4)
                assert adapter.lora or adapter.vectors
            except UserError as error:
                errors.append(str(error))
    assert len(errors) >= 4
    assert not any("\n" in error for error in errors)
