"""A folder of made-up LoRA files, from scan to export."""
