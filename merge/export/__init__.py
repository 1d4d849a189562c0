"""Adapters as one LoRA file for PyTorch."""
