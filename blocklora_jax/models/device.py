"""What an accelerator is good at."""

from __future__ import annotations

from typing import Any

# NVIDIA's compute capability from which on bfloat16 is fast, and cuDNN has fused attention: that of Ampere.
_AMPERE = 8.0


def is_ampere(device: Any) -> bool:
    """Whether a JAX device is an NVIDIA GPU of the Ampere generation or a later one."""
    return device.platform == "gpu" and float(getattr(device, "compute_capability", None) or 0) >= _AMPERE
