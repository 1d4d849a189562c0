"""Exports adapters as one LoRA file for PyTorch."""
