"""Modular customization of diffusion models: block-partitioned LoRA, erasure and lossless merging in JAX."""

from __future__ import annotations

from importlib import import_module

from blocklora_jax.command_line.signals import end_early

__version__ = "0.2.0"
__all__ = ["Adapter", "MergedModel", "Region", "StableDiffusion", "UserError", "side_by_side"]

end_early()

_HOMES = {
    "Adapter": "blocklora_jax.adapters.adapter",
    "MergedModel": "blocklora_jax.pipeline",
    "Region": "blocklora_jax.diffusion.regions",
    "StableDiffusion": "blocklora_jax.pipeline",
    "UserError": "blocklora_jax.errors",
    "side_by_side": "blocklora_jax.diffusion.regions",
}


def __getattr__(name: str):
    """Import the public names on first use, so that `import merge` need not wait for Flax."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
