"""Adapters: blocks and slots, the pytree of LoRA pairs, the adapter file, and running a model with an adapter."""
