"""Random PyTorch models, and helpers to compare them with ours."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill every parameter at random: no scale is 1, no bias is 0, and signals keep their size. Sets eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                fan_in = 1 if "embedding.weight" in name else parameter[0].numel()
                parameter.copy_(noise / fan_in**0.5)
    return module.eval()


def state_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The module's state dict as numpy arrays, without a copy."""
    return {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}


def normal(seed: int, *shape: int) -> np.ndarray:
    """Seeded fp32 standard normal."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def torch_image(x: np.ndarray) -> torch.Tensor:
    """[b, h, w, c] to PyTorch's [b, c, h, w]."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_torch_image(x: torch.Tensor) -> np.ndarray:
    """[b, c, h, w] to [b, h, w, c]."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


def relative_error(ours: Any, reference: np.ndarray) -> float:
    """Largest difference over the largest reference value, after checking the shapes."""
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, f"{ours.shape} != {reference.shape}"
    assert np.isfinite(ours).all()
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def without_grad(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` without autograd."""
    with torch.no_grad():
        return function(*args)


def as_jax(tree: Any) -> Any:
    """A nested dict of numpy arrays as jax arrays."""
    return {k: as_jax(v) for k, v in tree.items()} if isinstance(tree, dict) else jnp.asarray(tree)
