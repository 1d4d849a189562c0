"""Checks of input before it is used: names, numbers, texts, finite arrays."""
