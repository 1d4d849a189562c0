"""Merging concepts.

`compose` adds concepts to a model's weights. `remove` and `replace` change one of them. `concatenate` makes one LoRA of
several adapters, and `export` writes it for PyTorch. `fit_jointly` changes adapters that share weights so that they
disturb each other less, and `tune_tokens` changes only their tokens.

`METHODS` lists all merge methods by name. All have the same signature there (see `merge.methods.method`).

>>> print(*METHODS)
sum average ties dare dare_ties magnitude svd knots ssr gradient_fusion joint_fit tuned_tokens
>>> METHODS["ties"].settings(density=0.3)
TiesSettings(density=0.3)
"""

from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checks.renamed import old_names
from merge.compose import compose
from merge.concatenate import concatenate
from merge.export.lora_file import export
from merge.methods.average import average
from merge.methods.dare import dare
from merge.methods.dare_ties import dare_ties
from merge.methods.gradient_fusion import gradient_fusion
from merge.methods.joint_equations import fit_to_inputs
from merge.methods.joint_fit import fit_jointly
from merge.methods.knots import knots
from merge.methods.magnitude import magnitude
from merge.methods.routing import route
from merge.methods.svd import svd
from merge.methods.table import METHODS
from merge.methods.ties import ties
from merge.methods.tuned_tokens import tune_tokens
from merge.remove import remove, replace
from merge.switch import AdapterSwitch

__all__ = [
    "METHODS",
    "AdapterSwitch",
    "average",
    "compose",
    "concatenate",
    "dare",
    "dare_ties",
    "export",
    "fit_jointly",
    "fit_to_inputs",
    "gradient_fusion",
    "knots",
    "magnitude",
    "remove",
    "replace",
    "route",
    "svd",
    "ties",
    "token_counts",
    "tune_tokens",
]

__getattr__ = old_names(
    __name__, {"fuse": "gradient_fusion", "fuse_adapters": "fit_jointly", "refocus": "fit_to_inputs"}
)
