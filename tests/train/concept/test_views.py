"""Crops cover a part of the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from train.concept.images import Picture, Square, crop_square, image_array, mask_array
from train.concept.views import count_views, crop_views, move_to_mask, place_views

SIZE, GRID = 16, 8


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))


def masked(size: tuple[int, int], *white: tuple[int, int, int, int]) -> Picture:
    """A picture of noise whose mask is white in the boxes `white`."""
    mask = Image.new("L", size, 0)
    for box in white:
        mask.paste(255, box)
    return Picture(Path("a.png"), noise(size), mask)


def views(picture: Picture, smallest: float = 1.0, flip: bool = False, seed: int = 0) -> list[Picture]:
    return drawn_by(np.random.default_rng(seed), picture, smallest, flip)


def drawn_by(rng: np.random.Generator, picture: Picture, smallest: float, flip: bool) -> list[Picture]:
    return list(crop_views(picture, place_views(picture, rng, SIZE, GRID, smallest), SIZE, flip))


def test_the_centre_square_of_a_portrait_moves_to_the_face_at_its_top():
    picture = masked((40, 100), (10, 2, 30, 20))
    [view] = views(picture)
    # It moves no farther than it must: from row 30 to row 2.
    expected = picture.image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, (0, 2, 40, 42))
    assert view.image.tobytes() == expected.tobytes()
    white = np.asarray(picture.mask.crop((0, 2, 40, 42))).mean() / 255
    # Greys at the edges of the mask are rounded.
    assert mask_array(view, GRID).mean() == pytest.approx(white, abs=0.01)


@pytest.mark.parametrize("box", [(5, 35, 20, 60), (0, 0, 40, 100), (0, 30, 40, 70)])
def test_the_centre_square_stays_if_it_covers_as_much_of_the_mask_as_possible(box):
    picture = masked((40, 100), box)
    [view] = views(picture)
    assert view.image.tobytes() == crop_square(picture, SIZE).image.tobytes()
    assert view.mask.tobytes() == crop_square(picture, SIZE).mask.tobytes()


@pytest.mark.parametrize("smallest", [0.1, 0.5])
@pytest.mark.parametrize("box", [(0, 0, 6, 6), (90, 54, 100, 60), (50, 0, 54, 60)])
def test_every_random_crop_covers_a_part_of_the_mask(smallest, box):
    for seed in range(5):
        for view in views(masked((100, 60), box), smallest, flip=True, seed=seed):
            assert mask_array(view, GRID).sum() > 0


def test_crops_are_reproducible_and_those_that_cover_the_mask_do_not_move():
    picture = masked((100, 60), (0, 0, 40, 60))
    found, again, plain = views(picture, 0.4), views(picture, 0.4), views(picture._replace(mask=None), 0.4)
    pixels = [[view.image.tobytes() for view in drawn] for drawn in (found, again, plain)]
    assert pixels[0] == pixels[1]
    same = [one == other for one, other in zip(pixels[0], pixels[2], strict=True)]
    assert any(same)
    assert not all(same)


def test_without_a_mask_crops_are_those_of_earlier_versions():
    picture, rng = Picture(Path("a.png"), noise((30, 20))), np.random.default_rng((3, 2, 1))
    places = [(rng.uniform(0.5, 1), tuple(rng.random(2))) for _ in range(8)]
    expected = [crop_square(picture, SIZE, share, at) for share, at in places]
    found = drawn_by(np.random.default_rng((3, 2, 1)), picture, 0.5, flip=True)
    assert len(found) == count_views(0.5, True) == 16
    for view, other in zip(found, expected, strict=False):
        assert view.image.tobytes() == other.image.tobytes()
    for view, other in zip(found[8:], expected, strict=True):
        np.testing.assert_array_equal(image_array(view), image_array(other)[:, ::-1])


def test_masks_are_mirrored_with_their_pictures():
    left, right = views(masked((16, 16), (0, 0, 8, 16)), flip=True)
    np.testing.assert_array_equal(mask_array(left, GRID), mask_array(right, GRID)[:, ::-1])


def test_a_crop_goes_to_the_nearest_place_that_covers_the_mask():
    mask = Image.new("L", (100, 60), 0)
    mask.paste(255, (70, 40, 80, 50))
    assert move_to_mask(Square(0, 0, 30), mask) == Square(50, 20, 30)
    assert move_to_mask(Square(60, 30, 30), mask) == Square(60, 30, 30)
    assert move_to_mask(Square(0, 0, 5), mask) == Square(70, 40, 5)


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 19)), min_size=1, max_size=4), st.integers(1, 20))
def test_a_moved_crop_always_covers_a_part_of_the_mask(points, side):
    mask = np.zeros((20, 30), np.uint8)
    for x, y in points:
        mask[y, x] = 255
    left, top, _ = move_to_mask(Square(0, 0, side), Image.fromarray(mask))
    assert 0 <= left <= 30 - side and 0 <= top <= 20 - side
    assert mask[top : top + side, left : left + side].any()
