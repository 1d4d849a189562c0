"""The part of a picture around its mask."""

from __future__ import annotations

import io

import numpy as np
import pytest
from concept_builders import make_config, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from blocklora_jax.errors import UserError
from train.concept.data import load_concept_data
from train.concept.images import Box
from train.concept.mask_region import mask_region


def mask_with(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def test_the_region_is_the_white_with_a_margin_in_its_middle():
    mask = mask_with((1000, 800), (300, 200, 500, 300))
    # The margin is 20, a tenth of the longer side.
    assert mask_region(mask, 64, square=False) == Box(280, 180, 240, 140)
    assert mask_region(mask, 64, square=True) == Box(280, 130, 240, 240)


def test_the_region_stays_in_the_picture_and_is_not_enlarged_more_than_twofold():
    assert mask_region(mask_with((1000, 800), (0, 0, 10, 10)), 512, square=True) == Box(0, 0, 256, 256)
    assert mask_region(mask_with((1000, 800), (980, 100, 1000, 700)), 64, square=True) == Box(280, 40, 720, 720)
    assert mask_region(mask_with((100, 80), (40, 40, 41, 41)), 512, square=True) == Box(0, 0, 100, 80)
    assert mask_region(Image.new("L", (100, 80), 0), 64, square=True) == Box(0, 0, 100, 80)


@given(st.data(), st.booleans())
def test_the_region_covers_the_white(data, square):
    width, height = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    region = mask_region(mask_with((width, height), (left, top, right, bottom)), 8, square)
    edges = region.edges
    assert 0 <= edges[0] <= left and right <= edges[2] <= width
    assert 0 <= edges[1] <= top and bottom <= edges[3] <= height


@pytest.fixture
def folder(tmp_path):
    """Two pictures of noise. The first has a mask with a white square of 12 x 12 pixels."""
    folder = write_pictures(tmp_path / "pictures", 2, (80, 40))
    mask_with((80, 40), (50, 20, 62, 32)).save(folder / "0.mask.png")
    return folder


@pytest.mark.parametrize("changes", [{}, {"aspect_buckets": True}])
def test_pictures_with_a_mask_are_trained_there_and_others_whole(tiny_sd, folder, changes):
    data = load_concept_data(make_config(images=folder, crop_to_mask=True, **changes), tiny_sd)
    plain = load_concept_data(make_config(images=folder, **changes), tiny_sd)
    # The white fills about 12 of 14.4 pixels each way; without --crop-to-mask 12 of 40.
    assert 0.5 < data.weights[0].mean() < 0.9
    assert plain.weights[0].mean() < 0.2
    np.testing.assert_array_equal(data.latents[1], plain.latents[1])


def test_the_contact_sheet_shows_the_crop_around_the_mask(tiny_sd, folder):
    data = load_concept_data(make_config(images=folder, crop_to_mask=True), tiny_sd)
    sheet = np.asarray(Image.open(io.BytesIO(data.contact_sheet)).convert("RGB"))[4 : 4 + 240, 4 : 4 + 240]
    rows, columns = np.nonzero((sheet == (0, 160, 0)).all(-1))
    # The picture is drawn at three times its size, 60 pixels below the top of its cell. The margin is 1.2 pixels.
    assert abs(columns.min() - 3 * 49) <= 3 and abs(columns.max() - 3 * 63) <= 3
    assert abs(rows.min() - 60 - 3 * 19) <= 3 and abs(rows.max() - 60 - 3 * 33) <= 3


def test_without_any_mask_it_is_refused(tiny_sd, tmp_path):
    config = make_config(images=write_pictures(tmp_path / "plain"), crop_to_mask=True)
    with pytest.raises(UserError, match=r"--crop-to-mask needs masks, and \S+plain has none: a\.mask\.png is the mask"):
        load_concept_data(config, tiny_sd)
