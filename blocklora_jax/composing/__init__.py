"""Adapters summed into a model's weights: what must hold before, the sum, and what is checked after it."""
