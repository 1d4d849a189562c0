"""Random tensors of one layer, for every kind of adapter that people have. No values but shapes and names matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Tensors = dict[str, np.ndarray]
# (random numbers, the layer's weight as PyTorch has it, rank) -> tensors by the end of their names.
Make = Callable[[np.random.Generator, np.ndarray, int], Tensors]


def _draw(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def lora(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """A LoRA; with a window for convolutions."""
    outputs, inputs, *window = weight.shape
    ones = [1] * len(window)
    return {
        "lora_down.weight": _draw(rng, rank, inputs, *window),
        "lora_up.weight": _draw(rng, outputs, rank, *ones),
        "alpha": np.array(rank / 2, np.float32),
    }


def locon(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """A LoCon, whose convolutions have a core."""
    outputs, inputs, *window = weight.shape
    if window != [3, 3]:
        return lora(rng, weight, rank)
    return {
        "lora_down.weight": _draw(rng, rank, inputs, 1, 1),
        "lora_mid.weight": _draw(rng, rank, rank, 3, 3),
        "lora_up.weight": _draw(rng, outputs, rank, 1, 1),
        "alpha": np.array(rank, np.float32),
    }


def dora(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """A DoRA: a LoRA and the size of each column of the new weight."""
    scale = np.linalg.norm(weight.reshape(len(weight), -1), axis=0).reshape(1, *weight.shape[1:])
    return {**lora(rng, weight, rank), "dora_scale": scale.astype(np.float32)}


def loha(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """A LoHa: the product of two LoRAs, entry by entry."""
    outputs, inputs = len(weight), weight.size // len(weight)
    tensors = {f"hada_w{i}_a": _draw(rng, outputs, rank) for i in (1, 2)}
    tensors |= {f"hada_w{i}_b": _draw(rng, rank, inputs) for i in (1, 2)}
    return {**tensors, "alpha": np.array(rank, np.float32)}


def lokr(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """A LoKr: the Kronecker product of two matrices."""
    outputs, inputs = weight.shape[:2]
    return {
        "lokr_w1": _draw(rng, 2, 2),
        "lokr_w2": _draw(rng, outputs // 2, inputs // 2, *weight.shape[2:]),
        "alpha": np.array(1, np.float32),
    }


def glora(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """A GLoRA: one LoRA that multiplies the weight, and one that is added."""
    outputs, inputs = weight.shape[:2]
    return {
        "a1.weight": _draw(rng, rank, inputs),
        "a2.weight": _draw(rng, inputs, rank),
        "b1.weight": _draw(rng, rank, inputs),
        "b2.weight": _draw(rng, outputs, rank),
        "alpha": np.array(rank, np.float32),
    }


def full(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """The whole difference of a weight."""
    return {"diff": _draw(rng, *weight.shape)}


def ia3(rng: np.random.Generator, weight: np.ndarray, rank: int) -> Tensors:
    """An IA3: a factor for each output."""
    return {"weight": _draw(rng, len(weight), 1), "on_input": np.array(False)}


ALGORITHMS: dict[str, Make] = {
    "LoRA": lora, "LoCon": locon, "LoHa": loha, "LoKr": lokr, "DoRA": dora, "GLoRA": glora, "IA3": ia3,
    "full differences": full,
}  # fmt: skip
