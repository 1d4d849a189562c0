"""Pictures as cameras, phones and editors write them."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from blocklora_jax.io.open_picture import UnreadableError, open_picture, to_mask, to_rgb
from train.concept.images import read_pictures

RED, BLUE = (255, 0, 0), (0, 0, 255)
EXIF_ORIENTATION = 0x0112
# The name of each kind for Pillow, and whether its colours are exact. HEIF and AVIF need not be installed with Pillow.
KINDS = {"heic": "HEIF", "heif": "HEIF", "avif": "AVIF", "gif": "GIF", "tif": "TIFF", "bmp": "BMP", "jfif": "JPEG"}


def two_halves(size=(64, 32)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


@pytest.fixture(autouse=True)
def can_write_heic():
    from pillow_heif import register_heif_opener

    register_heif_opener()


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    (image or two_halves()).save(path, KINDS.get(path.suffix[1:].lower()), **options)
    return path


def check_halves(image: Image.Image) -> None:
    """The picture is upright, and red on the left. Lossy kinds are off by a few levels of 255."""
    assert (image.mode, image.size) == ("RGB", (64, 32))
    np.testing.assert_allclose(np.asarray(image)[16, [4, -4]], [RED, BLUE], rtol=0, atol=8)


@pytest.mark.parametrize("suffix", [*KINDS, "HEIC", "Avif", "GIF"])
def test_every_kind_of_picture_is_read(tmp_path, suffix):
    save(tmp_path / f"a.{suffix}")
    [picture] = read_pictures(tmp_path)
    check_halves(picture.image)


@pytest.mark.parametrize("name", ["a.heic", "a.avif", "a.tif", "a.jpg", "a.png", "a.webp"])
def test_photos_taken_sideways_are_turned_upright_once(tmp_path, name):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # the stored picture must be turned clockwise by 90 degrees
    save(tmp_path / name, two_halves().transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())
    check_halves(open_picture(tmp_path / name, to_rgb))


def test_a_heic_that_is_called_jpg_is_read(tmp_path):
    save(tmp_path / "a.heic").rename(tmp_path / "a.jpg")
    check_halves(open_picture(tmp_path / "a.jpg", to_rgb))


def test_of_animated_pictures_the_first_frame_is_read(tmp_path):
    frames = [two_halves(), Image.new("RGB", (64, 32), "white")]
    for name in ("a.gif", "b.png", "c.webp", "d.avif", "e.tif", "f.heic"):
        save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        check_halves(open_picture(tmp_path / name, to_rgb))


def test_a_gif_with_transparency_becomes_white_there(tmp_path):
    image = two_halves().quantize(4)
    save(tmp_path / "a.gif", image, transparency=image.getpixel((0, 0)))
    pixels = np.asarray(open_picture(tmp_path / "a.gif", to_rgb))
    np.testing.assert_array_equal(pixels[16, 4], 255)
    np.testing.assert_array_equal(pixels[16, -4], BLUE)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_keeps_its_colours(tmp_path, name):
    save(tmp_path / name, two_halves().convert("CMYK"))
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == "CMYK"
    check_halves(open_picture(tmp_path / name, to_rgb))


def test_sixteen_bits_a_channel_keep_their_tones(tmp_path):
    values = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3, -1).reshape(16, 16, 3)
    values[..., 1] = values[..., 1][::-1, ::-1]
    (tmp_path / "a.png").write_bytes(png_of_sixteen_bits(values))
    (tmp_path / "b.tif").write_bytes(tiff_of_sixteen_bits(values))
    for name in ("a.png", "b.tif"):
        np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / name, to_rgb)), values >> 8)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_of_grey_in_a_tiff_keep_their_tones(tmp_path, mode):
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    data = ramp.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    save(tmp_path / "a.tif", Image.frombytes(mode, (16, 16), data))
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "a.tif", to_rgb))[..., 0], ramp >> 8)


def test_pixels_of_32_bits_are_refused_and_not_clipped(tmp_path):
    save(tmp_path / "a.tif", Image.fromarray(np.full((4, 4), 0.5, np.float32)))
    for convert in (to_rgb, to_mask):
        with pytest.raises(UnreadableError, match=r"a\.tif \(its pixels are 32-bit numbers: save it as PNG\)"):
            open_picture(tmp_path / "a.tif", convert)


def test_without_its_library_a_heic_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    save(tmp_path / "a.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableError) as error:
        open_picture(tmp_path / "a.heic", to_rgb)
    assert error.value.reason == 'HEIC needs pip install "blocklora_jax[heic]"'


def test_with_an_older_pillow_an_avif_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    save(tmp_path / "a.avif")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UnreadableError) as error:
        open_picture(tmp_path / "a.avif", to_rgb)
    assert error.value.reason == 'AVIF needs a newer Pillow: pip install "Pillow>=11.3"'


@pytest.mark.parametrize("name", ["a.heic", "a.avif", "a.gif", "a.tif", "a.bmp"])
def test_damaged_files_say_so_without_their_path(tmp_path, name):
    data = save(tmp_path / name).read_bytes()
    for part in (b"", data[:20], data[: len(data) // 2]):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UnreadableError) as error:
            open_picture(tmp_path / name, to_rgb)
        assert error.value.reason.startswith("damaged: ")
        assert str(tmp_path) not in str(error.value)


def png_of_sixteen_bits(values: np.ndarray) -> bytes:
    """A PNG of uint16 [h, w, 3], which Pillow cannot write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff_of_sixteen_bits(values: np.ndarray) -> bytes:
    """An uncompressed TIFF of uint16 [h, w, 3], which Pillow cannot write."""
    height, width, _ = values.shape
    pixels, file = values.astype("<u2").tobytes(), io.BytesIO()
    bits_at = 8 + len(pixels)
    short, long = 3, 4
    tags = [
        (256, long, 1, width), (257, long, 1, height), (258, short, 3, bits_at), (259, short, 1, 1),
        (262, short, 1, 2), (273, long, 1, 8), (277, short, 1, 3), (278, long, 1, height), (279, long, 1, len(pixels)),
    ]  # fmt: skip
    file.write(struct.pack("<2sHI", b"II", 42, bits_at + 6) + pixels + struct.pack("<3H", 16, 16, 16))
    file.write(struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4))
    return file.getvalue()
