"""BOFT: several rotations in turn, each of other groups of rows (a butterfly), of LyCORIS or of PEFT.

Source: BOFT (arXiv 2311.06243); LyCORIS `functional/boft.py`; peft `tuners/boft`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from blocklora_jax.external_lora.algorithms.layer import Algorithm, Layer, demand, required
from blocklora_jax.external_lora.algorithms.oft import demand_outputs, difference
from blocklora_jax.external_lora.algorithms.rotations import cayley, constrained, rotated
from blocklora_jax.external_lora.changes import Change, Dense


def _shape(layer: Layer) -> None:
    blocks = layer.parts["oft_blocks"]
    stages, count, size = blocks.shape[:3]
    demand(blocks.ndim == 4 and size == blocks.shape[3] and size % 2 == 0 and 0 < stages <= 32)
    # Stage i mixes rows that lie 2^i half blocks apart.
    demand(count % 2 ** (stages - 1) == 0)
    demand_outputs(layer, count * size)


def _change(layer: Layer) -> Change:
    weight, blocks = layer.base, np.asarray(layer.parts["oft_blocks"], np.float64)
    skew = constrained(blocks - blocks.swapaxes(2, 3), layer.number("alpha", 0.0) * len(weight))
    flat = np.asarray(weight.reshape(len(weight), -1), np.float64)
    for stage, rotation in enumerate(cayley(skew)):
        half = 2**stage * (blocks.shape[2] // 2)
        order = np.arange(len(flat)).reshape(-1, 2, half).swapaxes(1, 2).reshape(-1)
        mixed = np.empty_like(flat)
        # LyCORIS multiplies by R here, and by R^T in OFT.
        mixed[order] = rotated(rotation.swapaxes(1, 2), flat[order])
        flat = mixed
    return Dense(difference(flat, layer))


def _input_shape(layer: Layer) -> None:
    blocks, scales = required(layer, "boft_R", "boft_s")
    demand(blocks.ndim == 4 and 0 < len(blocks) <= 32 and blocks.shape[2] == blocks.shape[3] > 0)
    stages, count, size = blocks.shape[:3]
    demand(stages == 1 or (size % 2 == 0 and count % 2 ** (stages - 1) == 0))
    if layer.weight is not None:
        demand(count * size == layer.weight[0].size and scales.size == len(layer.weight))


def _input_change(layer: Layer) -> Change:
    blocks, weight = np.asarray(layer.parts["boft_R"], np.float64), layer.base
    stages, count, size = blocks.shape[:3]
    flat = np.asarray(weight.reshape(len(weight), -1).T, np.float64)
    for stage, block in enumerate(blocks):
        order = _order(len(flat), count // 2**stage, size // 2) if stages > 1 else np.arange(len(flat))
        skew = 0.5 * (block - block.swapaxes(1, 2))
        # P B P^T: row i of P is row order[i] of the identity. PEFT's Cayley transform is that of -Q.
        inner = np.empty_like(flat)
        inner[order] = flat
        flat = rotated(cayley(-skew).swapaxes(1, 2), inner)[order]
    return Dense(difference(flat.T * np.asarray(layer.parts["boft_s"], np.float64).reshape(-1, 1), layer))


def _order(rows: int, blocks: int, half: int) -> Int[np.ndarray, " rows"]:
    """PEFT's order of rows: in each block, the halves with even numbers come before those with odd ones."""
    size = rows // blocks
    halves = np.arange(size).reshape(-1, half)
    within = np.concatenate([halves[0::2], halves[1::2]]).reshape(-1)
    return (np.arange(0, rows, size)[:, None] + within).reshape(-1)


BOFT = Algorithm(
    name="BOFT",
    title="a BOFT (butterfly orthogonal finetuning)",
    marks=frozenset({"oft_blocks"}),
    others=frozenset({"rescale"}),
    shape=_shape,
    change=_change,
    needs_base=True,
)
INPUT_BOFT = Algorithm(
    name="BOFT of inputs",
    title="a BOFT (butterfly orthogonal finetuning) in PEFT's form",
    marks=frozenset({"boft_R", "boft_s"}),
    others=frozenset(),
    shape=_input_shape,
    change=_input_change,
    needs_base=True,
    peft_type="BOFT",
)
