"""The old place of `blocklora_jax.registry.claims`; until 0.3."""

from blocklora_jax.registry.claims import Draw, Entry, Registry

__all__ = ["Draw", "Entry", "Registry"]
