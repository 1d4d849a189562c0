"""All merge methods, one line each. A new method needs a file in this folder and a line here."""

from __future__ import annotations

from merge.methods.average import merge_by_average
from merge.methods.dare import DareSettings, merge_by_dare
from merge.methods.gradient_fusion import GradientFusionSettings, merge_by_gradient_fusion
from merge.methods.joint_fit import JointFitSettings, merge_by_joint_fit
from merge.methods.method import Method, NoSettings
from merge.methods.sum import SumSettings, merge_by_sum
from merge.methods.ties import TiesSettings, merge_by_ties

METHODS: dict[str, Method] = {
    "sum": Method(merge_by_sum, SumSettings, "add all changes; exact with blocks, and a concept can be removed again"),
    "average": Method(merge_by_average, NoSettings, "the mean of all changes"),
    "ties": Method(merge_by_ties, TiesSettings, "trim small changes, elect a sign, average those that agree"),
    "dare": Method(merge_by_dare, DareSettings, "drop entries of the changes at random, enlarge the rest"),
    "gradient_fusion": Method(
        merge_by_gradient_fusion, GradientFusionSettings, "least squares on the layers' inputs for each concept"
    ),
    "joint_fit": Method(merge_by_joint_fit, JointFitSettings, "fit the adapters jointly, then add them"),
}
