"""The old place of `blocklora_jax.composing.overflow`; until 0.2."""

from blocklora_jax.composing.overflow import check_overflow, may_overflow

__all__ = ["check_overflow", "may_overflow"]
