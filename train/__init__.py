"""Training: `python -m train.concept` teaches a concept, `python -m train.base` trains the pocket model."""
