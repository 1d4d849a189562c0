"""Flax Stable Diffusion: text encoder, U-Net, autoencoder, and the CLIP image tower."""
