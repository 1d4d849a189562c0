"""How many prompts and layers are observed at once, so that a probe takes no more than a given memory.

The memory is that beside the model's weights and the adapters. It is divided into three: the U-Net's intermediate
results for some prompts, what is observed in some layers, and a rest for text encoders and copies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax

from blocklora_jax.pipeline import StableDiffusion

GIB = 2**30
# GiB that are used on a device that does not say what it has, or has less than four times as much.
_USUAL = 4.0
# The shares of the memory for intermediate results, and for what is observed.
_RESULTS, _OBSERVED = 3 / 8, 3 / 8
# Intermediate results for each pixel of the latents, in units of the U-Net's first width. Compiled at full size it is
# 27 for SD 1.5 at 512 pixels and 15 for SDXL at 1024.
_WIDTHS = 27
# The widest layer's outputs (of a feed-forward layer), in the same units.
_WIDEST = 8


def default_memory() -> float:
    """GiB to use: a quarter of the device's memory, but at least 4 GiB; and at most a quarter of the host's memory.

    The host holds sums in fp64, and needs up to twice as much.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    device = max(_USUAL, stats.get("bytes_limit", 0) / 4 / GIB)
    return max(1.0, min(device, _host_memory() / 4 / GIB))


def rows_at_once(sd: StableDiffusion, chunk: int, memory: float | None = None, outputs: int = 0) -> int:
    """How many of `chunk` prompts are drawn at once: a divisor of `chunk`, so that all parts are equal.

    memory: GiB; None: `default_memory`. outputs: how many more copies of a layer's outputs are held.
    """
    config = sd.models.unet.config
    side = sd.image_size // sd.models.vae.config.downscale
    numbers = side**2 * config.block_out_channels[0] * (_WIDTHS + _WIDEST * outputs)
    most = _RESULTS * (memory or default_memory()) * GIB // (4 * numbers)
    return max(rows for rows in range(1, chunk + 1) if chunk % rows == 0 and (rows <= most or rows == 1))


def layer_groups(sizes: Mapping[str, int], memory: float | None = None) -> list[list[str]]:
    """Groups of layers, in their order. A model runs once for each group.

    sizes: bytes of what is observed in each layer. memory: GiB; None: `default_memory`.
    """
    most, groups, filled = _OBSERVED * (memory or default_memory()) * GIB, [], 0.0
    for layer, size in sizes.items():
        if not groups or filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(layer)
        filled += size
    return groups


def _host_memory() -> float:
    """Bytes of the host; infinite if it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
