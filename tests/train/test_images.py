"""Pictures of every kind as training data."""

from __future__ import annotations

import numpy as np
import pytest
from concept_builders import write_pictures
from PIL import Image

from blocklora_jax.errors import UserError
from train.images import crop_square, image_array, mask_array, read_pictures

RED, BLUE = (255, 0, 0), (0, 0, 255)
EXIF_ORIENTATION = 0x0112


def two_halves(size=(8, 4)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def only(folder):
    [picture] = read_pictures(folder)
    return picture


def test_pictures_come_by_name_and_others_files_stay(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp"):
        two_halves().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "movie.mp4").write_bytes(b"x")
    assert [picture.path.name for picture in read_pictures(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    assert all(picture.image.mode == "RGB" for picture in read_pictures(tmp_path))


@pytest.mark.parametrize(("orientation", "size"), [(1, (8, 4)), (3, (8, 4)), (6, (4, 8)), (8, (4, 8)), (2, (8, 4))])
def test_exif_orientation_is_applied(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    two_halves().save(tmp_path / "a.png", exif=exif)
    image = only(tmp_path).image
    assert image.size == size
    # Where the stored left side is seen: 1 left, 2 and 3 right, 6 top, 8 bottom.
    corner = {1: (0, 0), 2: (7, 0), 3: (7, 3), 6: (0, 0), 8: (0, 7)}[orientation]
    opposite = {1: (7, 3), 2: (0, 3), 3: (0, 0), 6: (3, 7), 8: (3, 0)}[orientation]
    assert image.getpixel(corner) == RED
    assert image.getpixel(opposite) == BLUE


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [255, 0, 0, 255]
    rgba[0, 1] = [255, 0, 0, 128]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = np.asarray(only(tmp_path).image)
    np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0])
    np.testing.assert_allclose(pixels[0, 1], [255, 127, 127], atol=1)
    np.testing.assert_array_equal(pixels[1], 255)


def test_palettes_with_and_without_transparency(tmp_path):
    image = two_halves().quantize(4)
    image.save(tmp_path / "a.png")
    index = image.getpixel((0, 0))
    image.save(tmp_path / "b.png", transparency=index)
    plain, holed = (np.asarray(picture.image) for picture in read_pictures(tmp_path))
    np.testing.assert_allclose(plain[0, 0], RED, atol=2)
    np.testing.assert_array_equal(holed[0, 0], 255)
    np.testing.assert_allclose(holed[0, -1], BLUE, atol=2)


def test_sixteen_bits_of_grey_keep_their_tones(tmp_path):
    ramp = (np.arange(256, dtype=np.uint32) * 257).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    pixels = np.asarray(only(tmp_path).image)
    np.testing.assert_array_equal(pixels[..., 0].ravel(), np.arange(256))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    two_halves().convert(mode).save(tmp_path / f"a.{suffix}")
    assert only(tmp_path).image.mode == "RGB"


def test_a_picture_of_one_pixel_is_enlarged(tmp_path):
    Image.new("RGB", (1, 1), RED).save(tmp_path / "a.png")
    array = image_array(crop_square(only(tmp_path), 16))
    assert array.shape == (16, 16, 3)
    np.testing.assert_array_equal(array, np.broadcast_to([1.0, -1.0, -1.0], (16, 16, 3)))


def test_a_wide_picture_is_cropped_to_its_middle(tmp_path):
    image = Image.new("RGB", (30, 10), BLUE)
    image.paste(RED, (10, 0, 20, 10))
    image.save(tmp_path / "a.png")
    array = image_array(crop_square(only(tmp_path), 10))
    np.testing.assert_array_equal(array, np.broadcast_to([1.0, -1.0, -1.0], (10, 10, 3)))


def test_crops_stay_inside(tmp_path):
    two_halves((9, 7)).save(tmp_path / "a.png")
    for share, at in ((0.1, (1.0, 1.0)), (0.01, (0.0, 1.0)), (0.99, (1.0, 0.0))):
        assert crop_square(only(tmp_path), 4, share, at).image.size == (4, 4)


def test_captions_are_read_without_line_breaks(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "0.txt").write_text("a photo of\n <ada> mån \n", encoding="utf-8")
    assert [picture.caption for picture in read_pictures(tmp_path)] == ["a photo of <ada> mån", None]


def test_masks_weigh_the_latents_they_cover(tmp_path):
    write_pictures(tmp_path, 1, (16, 16))
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "0.mask.png")
    picture = only(tmp_path)
    weights = mask_array(crop_square(picture, 16), 4)
    assert weights.shape == (4, 4, 1)
    np.testing.assert_array_equal(weights[..., 0], np.broadcast_to([1.0, 1, 0, 0], (4, 4)))


def test_without_a_mask_everything_counts(tmp_path):
    write_pictures(tmp_path, 1)
    np.testing.assert_array_equal(mask_array(crop_square(only(tmp_path), 16), 8), 1)


def test_a_black_mask_is_refused(tmp_path):
    write_pictures(tmp_path, 1, (16, 16))
    Image.new("L", (16, 16), 0).save(tmp_path / "0.mask.png")
    with pytest.raises(UserError, match=r"mask of 0\.png is black all over"):
        mask_array(only(tmp_path), 4)


def test_a_mask_of_another_size_is_named(tmp_path):
    write_pictures(tmp_path, 1, (16, 16))
    Image.new("L", (8, 16), 255).save(tmp_path / "0.mask.png")
    with pytest.raises(UserError, match=r"0\.png \(its mask is 8 x 16, the picture 16 x 16\)"):
        read_pictures(tmp_path)


def broken_chunk(data: bytes) -> bytes:
    """A PNG whose second chunk has an impossible name."""
    at = data.index(b"IDAT")
    return data[:at] + b"\xa7-\xdd\x0b" + data[at + 4 :]


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("png", lambda data: b""),
        ("png", lambda data: b"no picture"),
        ("png", lambda data: data[: len(data) // 2]),
        ("png", broken_chunk),
        ("jpg", lambda data: data[: len(data) // 3]),
        ("webp", lambda data: data[: len(data) // 2]),
    ],
)
def test_all_broken_pictures_are_named_in_one_message(tmp_path, suffix, damage):
    write_pictures(tmp_path, 1)
    for name in ("x", "y"):
        path = tmp_path / f"{name}.{suffix}"
        Image.open(tmp_path / "0.png").resize((64, 64)).save(path)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        UserError, match=rf"cannot read x\.{suffix} \(.*; y\.{suffix} \(.*: repair or remove them"
    ) as error:
        read_pictures(tmp_path)
    assert "0.png" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_caption_that_is_no_text_is_named(tmp_path):
    write_pictures(tmp_path, 1)
    (tmp_path / "0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot read 0\.txt"):
        read_pictures(tmp_path)


def test_a_folder_named_like_a_picture_is_named(tmp_path):
    (tmp_path / "0.png").mkdir()
    with pytest.raises(UserError, match=r"cannot read 0\.png"):
        read_pictures(tmp_path)


def test_folders_without_pictures(tmp_path):
    with pytest.raises(UserError, match="there is no folder of pictures"):
        read_pictures(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no pictures"):
        read_pictures(tmp_path)
