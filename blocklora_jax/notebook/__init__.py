"""For notebooks: pictures, and sliders for the weights of concepts. Everything works without a notebook too."""

from __future__ import annotations

from importlib import import_module

__all__ = ["keep_compiled_programs", "show", "weight_sliders", "weight_strip"]

_HOMES = {
    "keep_compiled_programs": "blocklora_jax.command_line.compilation_cache",
    "show": "blocklora_jax.notebook.pictures",
    "weight_sliders": "blocklora_jax.notebook.weights",
    "weight_strip": "blocklora_jax.notebook.weights",
}


def __getattr__(name: str):
    """Import the public names on first use: training asks this package where it runs, and draws nothing by it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
