"""Training the pocket model: `python -m train.base`."""
