"""The training loop, checkpoints, logs and devices: whatever is trained."""
