"""`compose`, the public function; its code is in `blocklora_jax.composing`, which the library's own models use too."""

from blocklora_jax.composing.compose import Params, compose

__all__ = ["Params", "compose"]
