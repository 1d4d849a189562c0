"""The training loop, checkpoints, logs and devices, for any model that is trained."""
