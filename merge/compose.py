"""The public function `compose`. Its code is in `blocklora_jax.composing`, because `StableDiffusion` uses it too."""

from blocklora_jax.composing.compose import Params, compose

__all__ = ["Params", "compose"]
