"""All merge methods, one line each. A new method needs a file in this folder and a line here."""

from __future__ import annotations

from merge.methods.average import merge_by_average
from merge.methods.dare import DareSettings, merge_by_dare
from merge.methods.dare_ties import merge_by_dare_ties
from merge.methods.gradient_fusion import GradientFusionSettings, merge_by_gradient_fusion
from merge.methods.joint_fit import JointFitSettings, merge_by_joint_fit
from merge.methods.knots import KnotsSettings, merge_by_knots
from merge.methods.magnitude import MagnitudeSettings, merge_by_magnitude
from merge.methods.method import Method, NoSettings
from merge.methods.routing import RoutingSettings, merge_by_routing
from merge.methods.sum import SumSettings, merge_by_sum
from merge.methods.svd import SvdSettings, merge_by_svd
from merge.methods.ties import TiesSettings, merge_by_ties
from merge.methods.tuned_tokens import TunedTokensSettings, merge_by_tuned_tokens

METHODS: dict[str, Method] = {
    "sum": Method(
        merge_by_sum, SumSettings, "add all changes; exact with blocks, and a concept can be removed again", sums=True
    ),
    "average": Method(merge_by_average, NoSettings, "the mean of all changes"),
    "ties": Method(merge_by_ties, TiesSettings, "trim small changes, elect a sign, average those that agree"),
    "dare": Method(merge_by_dare, DareSettings, "drop entries of the changes at random, enlarge the rest"),
    "dare_ties": Method(merge_by_dare_ties, DareSettings, "drop entries at random, then TIES' signs and average"),
    "magnitude": Method(merge_by_magnitude, MagnitudeSettings, "keep the largest entries of each change, add them"),
    "svd": Method(merge_by_svd, SvdSettings, "the sum, reduced to a low rank"),
    "knots": Method(merge_by_knots, KnotsSettings, "align the changes by one SVD, then TIES"),
    "ssr": Method(merge_by_routing, RoutingSettings, "SSR-Merge: route signals to the concept that is called"),
    "gradient_fusion": Method(
        merge_by_gradient_fusion, GradientFusionSettings, "least squares on the layers' inputs for each concept"
    ),
    "joint_fit": Method(merge_by_joint_fit, JointFitSettings, "fit the adapters jointly, then add them"),
    "tuned_tokens": Method(
        merge_by_tuned_tokens, TunedTokensSettings, "the sum, with tokens that are tuned to it", sums=True
    ),
}
# Short names that `--method` takes too.
SHORT_NAMES = {
    "fit": "joint_fit", "fusion": "gradient_fusion", "magnitude_prune": "magnitude", "ssr-merge": "ssr",
    "tune": "tuned_tokens",
}  # fmt: skip
