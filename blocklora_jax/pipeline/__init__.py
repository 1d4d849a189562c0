"""Stable Diffusion as one object that loads, takes concepts, makes pictures, and is saved."""

from blocklora_jax.pipeline.pipeline import Pipeline
from blocklora_jax.pipeline.stable_diffusion import MergedModel, StableDiffusion

__all__ = ["MergedModel", "Pipeline", "StableDiffusion"]
