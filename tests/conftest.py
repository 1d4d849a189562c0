"""Strict settings for every test: explicit broadcasting, no network, one thread a library, quick compilation."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Small programs are compiled by the hundred and run once: halves the time of the whole suite.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A Diffusers folder with the smallest Stable Diffusion 1.x (see tiny_model.py)."""
    from tiny_model import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_sd(tiny_folder):
    """The same, loaded."""
    from blocklora_jax import StableDiffusion

    return StableDiffusion.from_pretrained(tiny_folder)
