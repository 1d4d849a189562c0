"""Merging concepts: `compose` them into a model's weights, `concatenate` their ranks, `export` them to PyTorch."""

from blocklora_jax.adapters.concept_tokens import token_counts
from merge.compose import compose
from merge.concatenate import concatenate
from merge.export import export

__all__ = ["compose", "concatenate", "export", "token_counts"]
