"""Whole models: Diffusers folders and single files are read into Flax parameters, and written from them."""
