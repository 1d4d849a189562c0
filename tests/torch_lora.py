"""LoRA files as kohya's scripts write them, made only from PyTorch's names and shapes."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from blocklora_jax.layouts.torch_names import to_torch

Parts = dict[str, dict[str, np.ndarray]]


def torch_weights(params: dict, component: str) -> dict[str, np.ndarray]:
    """PyTorch's weights of the layers that a LoRA can adapt: matrices and convolutions."""
    state = to_torch(component, params[component])
    skip = ("embedding.weight", "norm")
    return {key: x for key, x in state.items() if x.ndim in (2, 4) and not any(part in key for part in skip)}


def random_lora(weight: np.ndarray, rank: int, rng: np.random.Generator, dtype=np.float32, core: bool = False):
    """{"down", "up"} (and "mid") for a PyTorch weight, with entries of about 0.3."""

    def draw(*shape: int) -> np.ndarray:
        return (0.3 * rng.standard_normal(shape, np.float32)).astype(dtype)

    outputs, inputs, *window = weight.shape
    if core:
        return {"down": draw(rank, inputs, 1, 1), "mid": draw(rank, rank, *window), "up": draw(outputs, rank, 1, 1)}
    return {"down": draw(rank, inputs, *window), "up": draw(outputs, rank, *(1 for _ in window))}


def change(parts: dict[str, np.ndarray], scale: float) -> np.ndarray:
    """scale * up @ down, of the shape of PyTorch's weight."""
    down, up = (np.asarray(parts[x], np.float64) for x in ("down", "up"))
    if "mid" in parts:
        mid = np.asarray(parts["mid"], np.float64)
        return scale * np.einsum("op,pqhw,qi->oihw", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    flat = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
    return scale * flat.reshape(up.shape[0], *down.shape[1:])


def kohya_file(layers: dict[str, dict[str, np.ndarray]], alphas: dict[str, float]) -> dict[str, np.ndarray]:
    """Tensors by kohya's key; `layers` by kohya's name of the layer."""
    roles = {"down": "lora_down.weight", "mid": "lora_mid.weight", "up": "lora_up.weight"}
    tensors = {f"{name}.{roles[role]}": x for name, parts in layers.items() for role, x in parts.items()}
    dtype = next(iter(tensors.values())).dtype
    return tensors | {f"{name}.alpha": np.array(alpha, dtype) for name, alpha in alphas.items()}


DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
