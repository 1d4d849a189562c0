"""Training: `python -m train.concept` teaches a concept, `python -m train.base` trains the pocket model."""

import blocklora_jax  # noqa: F401 (its handling of signals, before the imports that take long)
