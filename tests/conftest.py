"""Strict settings for every test: explicit broadcasting, no network, one thread a library, quick compilation, once."""

import os
import tempfile

from forced_devices import QUICK

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing is written to the user's own cache.
os.environ.setdefault("BLOCKLORA_COMPILATION_CACHE", "off")
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))
# XLA compiles each program once in a run of the suite: the workers of xdist and other processes inherit the folder. It
# is removed at the end of the process that made it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="blocklora-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import gc

import jax
import pytest

# Programs and their traces stay in memory. Looking through them for garbage takes a tenth of the time otherwise.
gc.set_threshold(50_000, 50, 50)

jax.config.update("jax_numpy_rank_promotion", "raise")
# A plugin may have imported JAX before, which reads the environment only then.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update(
    "jax_persistent_cache_min_compile_time_secs", float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
)


@pytest.fixture(autouse=True)
def stays_in_its_folder():
    """A test that leaves the working directory fails itself, and not another one of the same process."""
    before = os.getcwd()
    yield
    after = os.getcwd()
    os.chdir(before)
    assert after == before, "the test must change the directory by monkeypatch.chdir"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A Diffusers folder with the smallest Stable Diffusion 1.x (see blocklora_jax/testing/tiny_model.py).

    The U-Net of each family has one level, which compiles in two thirds of the time.
    """
    from blocklora_jax.testing.tiny_model import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", levels=1)


@pytest.fixture(scope="session")
def tiny_sd(tiny_folder):
    """The same, loaded."""
    from blocklora_jax import StableDiffusion

    return StableDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def two_level_folder(tmp_path_factory):
    """As `tiny_folder`, with two levels: names of layers tell its family."""
    from blocklora_jax.testing.tiny_model import save_tiny

    return save_tiny(tmp_path_factory.mktemp("two") / "model")


@pytest.fixture(scope="session")
def two_level_sd(two_level_folder):
    """The same, loaded."""
    from blocklora_jax import StableDiffusion

    return StableDiffusion.from_pretrained(two_level_folder)


@pytest.fixture(scope="session")
def tiny_sd2(tmp_path_factory):
    """The smallest Stable Diffusion 2.x, loaded from a folder."""
    return _load_tiny(tmp_path_factory, "sd2", levels=1)


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory):
    """The smallest SDXL, loaded from a folder."""
    return _load_tiny(tmp_path_factory, "sdxl", levels=1)


@pytest.fixture(scope="session")
def two_level_sd2(tmp_path_factory):
    """As `tiny_sd2`, with two levels."""
    return _load_tiny(tmp_path_factory, "sd2", levels=2)


@pytest.fixture(scope="session")
def two_level_xl(tmp_path_factory):
    """As `tiny_xl`, with two levels, of which only the inner one has attention, as in SDXL."""
    return _load_tiny(tmp_path_factory, "sdxl", levels=2)


def _load_tiny(tmp_path_factory, family, levels):
    from blocklora_jax import StableDiffusion
    from blocklora_jax.testing.tiny_model import save_tiny

    return StableDiffusion.from_pretrained(save_tiny(tmp_path_factory.mktemp(family) / "model", family, levels=levels))


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """A stand-in of the Hugging Face hub, with which huggingface_hub talks. Its cache is empty; nobody is logged in."""
    from hub_stand_in import HubStandIn
    from huggingface_hub import constants, hf_api

    home = tmp_path_factory.mktemp("hf")
    with HubStandIn() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{stand_in.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(hf_api.api, "endpoint", stand_in.url)  # made at import
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield stand_in
