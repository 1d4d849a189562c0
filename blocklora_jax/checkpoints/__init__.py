"""Whole models: Diffusers folders to Flax parameters and back."""
