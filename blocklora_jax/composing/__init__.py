"""Sums adapters into a model's weights, with checks before and after."""
