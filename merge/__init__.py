"""Merging concepts: `compose` them into a model's weights, `concatenate` their ranks, `export` them to PyTorch,
and `remove` or `replace` one of them. `fuse_adapters` makes adapters that share weights disturb each other least.

The methods that blocks are compared with are here too: `average`, `ties`, `dare`, `fuse`.
"""

from blocklora_jax.adapters.concept_tokens import token_counts
from merge.compose import compose
from merge.concatenate import concatenate
from merge.export.lora_file import export
from merge.methods.average import average
from merge.methods.dare import dare
from merge.methods.fusion import fuse, fuse_adapters, refocus
from merge.methods.ties import ties
from merge.remove import remove, replace

__all__ = [
    "average",
    "compose",
    "concatenate",
    "dare",
    "export",
    "fuse",
    "fuse_adapters",
    "refocus",
    "remove",
    "replace",
    "ties",
    "token_counts",
]
