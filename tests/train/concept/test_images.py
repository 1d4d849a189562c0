"""Pictures of every kind as training data."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from concept_builders import write_pictures
from PIL import Image

from blocklora_jax.errors import UserError
from train.concept.images import crop_square, image_array, mask_array, read_pictures

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


def test_pictures_are_sorted_by_name_and_other_files_are_ignored(tmp_path):
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
    # Where the stored left side is in the upright picture: 1 left, 2 and 3 right, 6 top, 8 bottom.
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


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder of pictures"):
        read_pictures(tmp_path / "nothing")
    with pytest.raises(UserError, match="has no pictures"):
        read_pictures(tmp_path)


def weights_of(mask: Image.Image, folder, **options) -> np.ndarray:
    """The loss weights of the pixels of an 8 x 4 picture with this mask."""
    two_halves().save(folder / "a.png")
    mask.save(folder / "a.mask.png", **options)
    return np.asarray(only(folder).mask)


def test_transparent_parts_of_a_mask_do_not_count(tmp_path):
    rgba = np.full((4, 8, 4), 255, np.uint8)
    rgba[:, 4:, 3] = 0
    rgba[:, 2, 3] = 128
    rgba[:, 1, :3] = 0
    found = weights_of(Image.fromarray(rgba), tmp_path)
    np.testing.assert_array_equal(found, np.broadcast_to([255, 0, 128, 255, 0, 0, 0, 0], (4, 8)))


def test_transparent_parts_of_masks_with_grey_or_palettes_do_not_count(tmp_path):
    grey = np.broadcast_to(np.array([255, 128, 0, 255], np.uint8).repeat(2), (4, 8))
    expected = np.where(grey == 255, 0, grey)
    np.testing.assert_array_equal(weights_of(Image.fromarray(grey), tmp_path, transparency=255), expected)
    alpha = np.where(grey == 255, 0, 255).astype(np.uint8)
    both = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)])
    np.testing.assert_array_equal(weights_of(both, tmp_path), expected)
    palette = Image.fromarray(grey).convert("P")
    index = palette.getpixel((0, 0))
    np.testing.assert_array_equal(weights_of(palette, tmp_path, transparency=index), expected)
    np.testing.assert_array_equal(weights_of(palette, tmp_path), grey)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_of_a_mask_keep_their_tones(tmp_path, mode):
    ramp = np.arange(32, dtype=np.uint16).reshape(4, 8) * 8 * 257
    image = Image.fromarray(ramp) if mode == "I;16" else Image.fromarray(ramp.astype(np.int32))
    # Older versions of Pillow open such a PNG in mode "I". This one does so with a TIFF.
    kind = "PNG" if mode == "I;16" else "TIFF"
    np.testing.assert_array_equal(weights_of(image, tmp_path, format=kind), ramp // 257)


def test_transparency_in_sixteen_bits_of_grey_is_recognised(tmp_path):
    ramp = np.arange(32, dtype=np.uint16).reshape(4, 8) * 8 * 257
    png = with_hidden_grey(Image.fromarray(ramp), 31 * 8 * 257)
    (tmp_path / "a.png").write_bytes(png)
    (tmp_path / "a.mask.png").write_bytes(png)
    picture = only(tmp_path)
    assert picture.image.getpixel((7, 3)) == (255, 255, 255)
    assert picture.mask.getpixel((7, 3)) == 0
    assert picture.mask.getpixel((6, 3)) == 240


def with_hidden_grey(image: Image.Image, value: int) -> bytes:
    """A PNG with 16 bits of grey in which `value` is transparent. In a PNG the chunk tRNS says so."""
    file = io.BytesIO()
    image.save(file, "PNG")
    data, body = file.getvalue(), b"tRNS" + struct.pack(">H", value)
    at = data.index(b"IDAT") - 4
    return data[:at] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + data[at:]


def test_masks_of_one_bit_weigh_all_or_nothing(tmp_path):
    mask = Image.new("1", (8, 4), 0)
    mask.paste(1, (0, 0, 4, 4))
    np.testing.assert_array_equal(weights_of(mask, tmp_path), np.broadcast_to([255] * 4 + [0] * 4, (4, 8)))


@pytest.mark.parametrize(("of_picture", "of_mask"), [(6, 6), (6, None), (None, 8)])
def test_picture_and_mask_are_each_turned_by_their_own_orientation(tmp_path, of_picture, of_mask):
    for name, orientation in (("a.png", of_picture), ("a.mask.png", of_mask)):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation or 1
        two_halves((8, 4) if orientation else (4, 8)).save(tmp_path / name, exif=exif)
    picture = only(tmp_path)
    assert picture.image.size == picture.mask.size
    assert (picture.image.size == (4, 8)) == bool(of_picture or of_mask)


def test_a_mask_that_cannot_be_read_is_named_and_its_picture_is_not(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "0.mask.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"cannot read 0\.mask\.png \(") as error:
        read_pictures(tmp_path)
    assert " 0.png (" not in str(error.value)


def test_a_mask_whose_white_vanishes_on_the_grid_is_refused(tmp_path):
    write_pictures(tmp_path, 1, (512, 512))
    mask = Image.new("L", (512, 512), 0)
    mask.putpixel((3, 3), 255)
    mask.save(tmp_path / "0.mask.png")
    with pytest.raises(UserError, match=r"0\.png is black all over, or its white is too small to be seen"):
        mask_array(crop_square(only(tmp_path), 16), 8)


def test_programs_that_call_themselves_pictures_are_not_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match=r"cannot read a\.png \(cannot identify"):
        read_pictures(tmp_path)


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write_pictures(tmp_path, 1)
    with pytest.raises(UserError, match=r"cannot read 0\.png \(.*decompression bomb"):
        read_pictures(tmp_path)


def test_pipes_and_links_to_nothing_are_named(tmp_path):
    write_pictures(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(UserError, match=r"cannot read link\.png \(not a file\); pipe\.png \(not a file\)"):
        read_pictures(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_damaged_picture_is_read_or_refused_in_one_line(tmp_path, suffix):
    rng, exif, messages = np.random.default_rng(0), Image.Exif(), []
    exif[EXIF_ORIENTATION] = 6
    two_halves((32, 32)).save(tmp_path / f"a.{suffix}", exif=exif)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    for _ in range(150):
        damaged = bytearray(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.2 else data)
        for _ in range(rng.integers(1, 5)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        (tmp_path / f"a.{suffix}").write_bytes(damaged)
        with warnings.catch_warnings():
            # Pillow warns about damaged EXIF blocks.
            warnings.simplefilter("ignore")
            try:
                read_pictures(tmp_path)
            except UserError as error:
                messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


_READ_MANY = """
import resource, sys
from pathlib import Path
from train.concept.images import crop_square, each_picture
from train.concept.picture_files import find_pictures

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

files, before = find_pictures(Path(sys.argv[1])), peak()
squares = [crop_square(picture, 64) for picture in each_picture(files)]
print(len(squares), peak() - before)
"""


def test_many_large_pictures_are_never_in_memory_at_once(tmp_path):
    Image.new("RGB", (2000, 1500), RED).save(tmp_path / "000.png", compress_level=1)
    for i in range(1, 40):
        os.link(tmp_path / "000.png", tmp_path / f"{i:03d}.png")
    done = subprocess.run([sys.executable, "-c", _READ_MANY, tmp_path], capture_output=True, text=True, check=True)
    count, megabytes = map(int, done.stdout.split())
    # All pictures take 480 MB. One takes 12 MB, and three copies are held while one is processed.
    assert count == 40
    assert megabytes < 100
