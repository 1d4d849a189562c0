"""Training: `python -m train.concept` teaches a concept, `python -m train.base` trains the pocket model."""

import os

import blocklora_jax  # noqa: F401 (it sets up the handling of signals before the slow imports)

# This must be set before JAX is loaded. Without it, JAX's C++ code prints pages of text on a pod when a host dies
# (see train/engine/pod.py).
if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
