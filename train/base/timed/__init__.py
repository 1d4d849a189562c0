"""Training the pocket model within a number of minutes, on an accelerator: `python -m train.base --minutes 8`."""
