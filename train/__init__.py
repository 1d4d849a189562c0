"""Training: `python -m train.concept` teaches a concept, `python -m train.base` trains the pocket model."""

import os
import sys

import blocklora_jax  # noqa: F401 (it sets up the handling of signals before the slow imports)
from train.engine.clusters import may_join

# This must be set before JAX is loaded. Without it, JAX's C++ code prints pages of text when another host dies (see
# train/engine/pod.py).
if may_join(os.environ, sys.argv):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
