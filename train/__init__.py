"""Training: `python -m train.concept` teaches a concept, `python -m train.base` trains the pocket model."""

import os

import blocklora_jax  # noqa: F401 (its handling of signals, before the imports that take long)

# Before JAX is loaded: on a pod its C++ parts would print pages when a host dies (see train/pod.py).
if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
