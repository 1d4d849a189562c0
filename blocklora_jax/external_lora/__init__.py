"""LoRA files of other programs, read."""
