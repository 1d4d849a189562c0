"""The packaged pocket model."""

import numpy as np
import pytest

from blocklora_jax import StableDiffusion
from blocklora_jax.checkpoints.hub import find_source


@pytest.fixture(scope="module")
def folder():
    return find_source("pocket", None).fetch([])


def test_weights_are_small_and_only_safetensors_and_text(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_readme_names_the_command_that_made_them(folder):
    assert "python -m train.base" in (folder / "README.md").read_text()


def test_pocket_model_draws_different_pictures_of_different_prompts():
    sd = StableDiffusion.from_pretrained("pocket")
    prompts = ["a photo of a car in a desert", "a blueprint of a robot in a city"]
    desert, blueprint = sd.generate(prompts, seed=3, steps=8).astype(float)
    assert desert.std() > 20
    # A blueprint is blue all over; a desert is sand.
    assert (blueprint[..., 2] - blueprint[..., 0]).mean() > (desert[..., 2] - desert[..., 0]).mean() + 40
    again = sd.generate(prompts[:1], seed=3, steps=8)
    # The same noise. A batch of another size may round some values to the next of 256 levels.
    difference = np.abs(again[0] - desert)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
