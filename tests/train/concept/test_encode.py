"""Pictures become latents: one by one, in batches, and with a progress bar."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from concept_builders import write_pictures

from train.concept import encode
from train.concept.encode import PictureEncoder, encode_images, rows_at_once
from train.concept.images import Picture, crop_square, read_pictures


@pytest.fixture
def pictures(tmp_path) -> list[Picture]:
    return [crop_square(picture, 16) for picture in read_pictures(write_pictures(tmp_path, 5))]


def latents_of(sd, pictures, **options):
    with PictureEncoder(sd, len(pictures), **options) as encoder:
        for picture in pictures:
            encoder.add(picture)
        return encoder.latents()


def test_batches_with_a_padded_last_one_give_the_latents_of_single_pictures(tiny_sd, pictures):
    alone = encode_images(tiny_sd, pictures)
    assert alone.dtype == np.float32
    assert alone.shape == (5, 8, 8, 4)
    before = encode._encode._cache_size()
    for rows in (2, 2, 8):
        batched = latents_of(tiny_sd, pictures, rows=rows)
        # Batches sum in another order: 1.3e-6 of 3.6 with the pocket model.
        np.testing.assert_allclose(batched, alone, rtol=0, atol=2e-6 * np.abs(alone).max())
    # One program for each number of rows, whatever the number of pictures.
    assert encode._encode._cache_size() == before + 2


def test_on_a_cpu_pictures_are_encoded_one_by_one_and_elsewhere_as_many_as_fit():
    assert rows_at_once(64, "cpu") == rows_at_once(1024, "cpu") == 1
    assert [rows_at_once(size, "gpu") for size in (64, 256, 512, 768, 1024, 2048)] == [16, 16, 4, 1, 1, 1]


@pytest.mark.parametrize(("count", "is_terminal", "shown"), [(60, True, True), (60, False, False), (5, True, False)])
def test_many_pictures_have_a_bar_on_a_terminal(tiny_sd, pictures, monkeypatch, count, is_terminal, shown):
    screen = io.StringIO()
    screen.isatty = lambda: is_terminal
    monkeypatch.setattr("sys.stderr", screen)
    with PictureEncoder(tiny_sd, count) as encoder:
        for _ in range(count):
            encoder.add(Picture(Path("a.png"), pictures[0].image))
        encoder.latents()
    assert ("encode: 100%" in screen.getvalue()) == shown
    assert ("60/60" in screen.getvalue()) == shown
