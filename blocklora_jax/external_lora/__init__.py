"""Reads LoRA files that other programs wrote."""
