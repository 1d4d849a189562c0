"""Random weights of a CLIP text encoder.

"initial": as OpenCLIP initialises them. "concentrated": attention and feed-forward are stronger, and all that is
written to the residual stream is strong along few directions and weak along the others, as in trained text encoders.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from blocklora_jax.checkpoints.shapes import param_shapes
from blocklora_jax.io.tree_paths import unflatten_params
from blocklora_jax.models.config import TextConfig

Kind = Literal["initial", "concentrated"]


class Gains(NamedTuple):
    """Factors on the initial weights.

    query: of queries and keys. value: of values and what attention writes. mlp: of both feed-forward layers.
    decay: what is written along the i-th direction has the standard deviation i ** -decay.
    """

    query: float = 1.0
    value: float = 1.0
    mlp: float = 1.0
    decay: float = 0.0


GAINS: dict[Kind, Gains] = {"initial": Gains(), "concentrated": Gains(query=2.0, value=2.0, mlp=2.0, decay=0.45)}
_FIRST = "/layers/0/"
# What the residual stream gets.
_WRITES = ("embedding", "out_proj", "fc2")


def draw_weights(config: TextConfig, layers: int, gains: Gains, seed: int = 0) -> dict[str, Any]:
    """Parameters of the first `layers` layers for `StackedText`, fp32.

    A layer has the same weights however many layers there are.

    config: of the whole text encoder; OpenCLIP scales what layers write by the number of layers.
    """
    width, depth = config.hidden_size, config.num_hidden_layers
    shaping = _residual_shaping(width, gains.decay, seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        drawn = _draw(path, shape, width, depth, gains, seed)
        is_write = any(name in path for name in _WRITES)
        return drawn @ shaping if is_write and shaping is not None else drawn

    flat = {}
    for path, shape in param_shapes(replace(config, num_hidden_layers=1)).items():
        if _FIRST in path:
            each = [draw(path.replace(_FIRST, f"/layers/{index}/"), shape) for index in range(layers)]
            flat[path.replace(f"/encoder{_FIRST}", "/layers/")] = np.stack(each)
        else:
            flat[path] = draw(path, shape)
    return unflatten_params(flat)


def _residual_shaping(width: int, decay: float, seed: int) -> Float[np.ndarray, "d d"] | None:
    """A symmetric matrix with eigenvalues i ** -decay, scaled so that white noise keeps its energy."""
    if not decay:
        return None
    rotation = np.linalg.qr(np.random.default_rng((seed, 0x5A)).standard_normal((width, width)))[0]
    strengths = np.arange(1, width + 1) ** -decay
    strengths /= np.sqrt(np.square(strengths).mean())
    return ((rotation * strengths) @ rotation.T).astype(np.float32)


def _draw(
    path: str, shape: tuple[int, ...], width: int, depth: int, gains: Gains, seed: int
) -> Float[np.ndarray, "*shape"]:
    """One parameter, as `CLIP.init_parameters` of OpenCLIP draws it, times its gain."""
    rng, name = np.random.default_rng((seed, zlib.crc32(path.encode()))), path.split("/")[-2]
    if path.endswith("scale"):
        return np.ones(shape, np.float32)
    if path.endswith("bias"):
        # Attention's are zero; those of feed-forward layers stay as PyTorch draws them.
        bound = {"fc1": width**-0.5, "fc2": (4 * width) ** -0.5}.get(name, 0.0)
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    deviation = {
        "token_embedding": 0.02,
        "position_embedding": 0.01,
        "q_proj": width**-0.5 * gains.query,
        "k_proj": width**-0.5 * gains.query,
        "v_proj": width**-0.5 * gains.value,
        "out_proj": (width * 2 * depth) ** -0.5 * gains.value,
        "fc1": (2 * width) ** -0.5 * gains.mlp,
        "fc2": (width * 2 * depth) ** -0.5 * gains.mlp,
    }[name]
    return deviation * rng.standard_normal(shape, np.float32)
