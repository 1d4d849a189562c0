"""Opens picture files of all kinds that cameras and phones write, as RGB or as a mask."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps, features

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable

# What HEIC files say that they are, in the box "ftyp" at their beginning. AVIF files have the same box.
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_MOST_BRANDS = 128  # bytes of the box that are read


class UnreadableError(UserError):
    """A picture file that cannot be read. path: the file. reason: in a few words, for a line about several files."""

    def __init__(self, path: Path, fault: str, reason: str):
        super().__init__(f"{printable(path.name)} ({printable(fault)})")
        self.path, self.reason = path, printable(reason)


class _NotReadError(Exception):
    """The file may be sound, but it is not read. The text is the reason."""


def open_picture(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The image of a file, turned upright and converted; of several frames the first.

    convert: `to_rgb` or `to_mask`.

    Raises: UnreadableError naming the file and its fault.
    """
    Image.init()
    try:
        if not path.is_file():
            raise _NotReadError("not a file")
        _prepare_pillow(path)
        # An EPS file is a program. Pillow would run it with Ghostscript, whatever the suffix of the file is.
        with Image.open(path, formats=[kind for kind in Image.ID if kind != "EPS"]) as file:
            ImageOps.exif_transpose(file, in_place=True)
            file.load()
            return convert(file)
    except _NotReadError as error:
        raise UnreadableError(path, str(error), str(error)) from error
    # Decoders raise many kinds of errors for damaged files: OSError, SyntaxError, struct.error, …
    except Exception as error:
        fault = " ".join(str(error).split()) or type(error).__name__
        # Pillow names the whole path.
        fault = re.sub(rf" ['\"]?{re.escape(str(path))}['\"]?$", "", fault)
        raise UnreadableError(path, fault, f"damaged: {fault}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, 8 bits. Transparent parts become white."""
    image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def to_mask(image: Image.Image) -> Image.Image:
    """Greyscale, white where the loss counts. Transparent parts become black."""
    image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return ImageChops.multiply(image.convert("L"), image.getchannel("A"))
    return image.convert("L")


def _prepare_pillow(path: Path) -> None:
    """Teach Pillow to read HEIC if `path` is such a file, whatever its suffix is.

    Raises: _NotReadError with the command that installs what is missing.
    """
    brands = _brands(path)
    if brands & _AVIF_BRANDS:
        if not features.check("avif"):
            raise _NotReadError('AVIF needs a newer Pillow: pip install "Pillow>=11.3"')
    elif brands & _HEIC_BRANDS:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise _NotReadError('HEIC needs pip install "blocklora_jax[heic]"') from None
        register_heif_opener()


def _brands(path: Path) -> set[bytes]:
    """The kinds that a file of the HEIC and AVIF family says it has; empty for other files."""
    with path.open("rb") as file:
        head = file.read(_MOST_BRANDS)
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[start : start + 4] for start in range(8, end, 4)}


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (mode "I;16", in older versions of Pillow "I") as 8-bit. Pillow's own conversion clips at 255."""
    if image.mode == "F":
        raise _NotReadError("its pixels are 32-bit numbers: save it as PNG")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    grey = Image.fromarray((values.astype(np.float32) / 257.0).clip(0, 255).astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
