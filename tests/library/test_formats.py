"""A file's kind, rank and shapes are read from its header, for every kind and dialect that the benchmark makes."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.library.make import make_tensors, specimens, weights_of
from blocklora_jax.layouts.dialects import find_layer
from blocklora_jax.library.formats import read_format
from blocklora_jax.testing.tiny_model import tiny_params

KINDS = {"LoCon": {"LoRA", "LoCon with cores"}}


@pytest.mark.parametrize("specimen", specimens(), ids=str)
def test_kind_rank_and_shapes(specimen):
    weights = weights_of(tiny_params())
    tensors = make_tensors(specimen, weights, np.random.default_rng(0))
    found = read_format({key: tensor.shape for key, tensor in tensors.items()})
    assert found.kind in KINDS.get(specimen.kind, {specimen.kind})
    assert found.layers
    assert len(found.layers) == len(found.heads)
    assert {find_layer(head) for head in found.heads} == found.layers.keys()
    if specimen.kind not in ("LoKr", "IA3", "full differences"):
        assert found.rank == specimen.rank
    shapes = {
        layer: (weights[key].shape[1], weights[key].shape[0])
        for key in weights
        for layer in [find_layer(f"{key[0]}.{key[1]}")]
    }
    for layer, shape in found.layers.items():
        if shape.inputs:
            assert (shape.inputs, shape.outputs) == shapes[layer] or specimen.kind == "LoHa"
    if specimen.kind in ("LoRA", "LoCon", "DoRA", "LoKr", "full differences"):
        assert all(shape.inputs for shape in found.layers.values())
