"""What would be trained on is what is trained on; and training from Python takes plain values."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from concept_builders import make_config, write_pictures
from PIL import Image

from blocklora_jax.errors import UserError
from train.concept.config import ConceptConfig
from train.concept.data import load_concept_data
from train.concept.picture_check import check_pictures


def test_the_sheet_is_that_of_the_training(tiny_sd, tmp_path):
    folder = write_pictures(tmp_path, 4)
    (folder / "1.png").write_bytes(b"x")
    config = make_config(images=folder)
    check = check_pictures(config, tiny_sd)
    assert check.note.startswith("3 pictures, 1 skipped (1.png: ")
    with Image.open(io.BytesIO(load_concept_data(config, tiny_sd).contact_sheet)) as sheet:
        np.testing.assert_array_equal(np.asarray(check.sheet), np.asarray(sheet))


def test_pictures_that_cannot_be_used_are_one_line(tiny_sd, tmp_path):
    with pytest.raises(UserError, match="there is no folder of pictures"):
        check_pictures(make_config(images=tmp_path / "none"), tiny_sd)


def test_from_python_folders_may_be_texts_and_the_slot_a_number():
    config = ConceptConfig.from_settings(
        images="my_dog", token="<bo>", class_noun="dog", slot=3, out="runs/bo", other_images="others", steps=5
    )
    assert (config.images, config.out, config.erasure.other_images) == (Path("my_dog"), Path("runs/bo"), Path("others"))
    assert config.adapter.slot == (3,)
    assert config == config.with_settings(slot=(3,), out=Path("runs/bo"))
