"""Adapters: blocks and slots, the LoRA pytree, its file, and running a model with it."""
