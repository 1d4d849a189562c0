"""Pictures side by side."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from blocklora_jax.io.picture_grid import picture_grid, png_bytes

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)


def flat(count: int, side: int = 16) -> np.ndarray:
    return np.broadcast_to(COLOURS[:count, None, None, :], (count, side, side, 3)).copy()


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (2, 3)), (5, 4, (2, 4)), (3, 1, (3, 1))],
)
def test_pictures_are_placed_row_by_row(count, columns, shape):
    grid = np.asarray(picture_grid(flat(count), columns=columns))
    cell = 16 + 4
    assert grid.shape == (shape[0] * cell + 4, shape[1] * cell + 4, 3)
    for i in range(count):
        row, column = divmod(i, shape[1])
        np.testing.assert_array_equal(grid[4 + row * cell + 8, 4 + column * cell + 8], COLOURS[i])


def test_scale_enlarges():
    assert picture_grid(flat(1), scale=4).size == (16 * 4 + 8, 16 * 4 + 8)


def test_captions_stand_below_their_pictures_and_make_room_for_the_longest():
    bare = picture_grid(flat(2), scale=8)
    short = picture_grid(flat(2), captions=["one", "two"], scale=8)
    long = picture_grid(flat(2), captions=["one", "two " * 20], scale=8)
    assert bare.height < short.height < long.height
    assert bare.width == short.width == long.width
    below = np.asarray(short)[4 + 128 : -4, 4 : 4 + 128]
    assert below.min() < 128  # ink
    np.testing.assert_array_equal(np.asarray(short)[4:132, 4:132], np.asarray(bare)[4:132, 4:132])


def test_every_picture_needs_its_caption():
    with pytest.raises(ValueError, match="zip"):
        picture_grid(flat(2), captions=["one"])


def test_png_bytes_are_a_png_of_the_picture():
    grid = picture_grid(flat(2))
    reread = Image.open(io.BytesIO(png_bytes(grid)))
    assert reread.format == "PNG"
    np.testing.assert_array_equal(np.asarray(reread), np.asarray(grid))
