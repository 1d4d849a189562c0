"""Damaged pictures, masks and captions, and undamaged ones of unusual kinds."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import facts_of
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.trial import Case, Matching, Trial
from train.concept.images import read_pictures

NAME, SECONDS, MOST_MEMORY, QUICK = "pictures", 30.0, 512 << 20, 300
_TIMES = 5  # number of cases for each damage to bytes
_SIZE = (20, 16)
_CAPTION = "a photo of <ada> woman in the snow, déjà vu"


def prepare(folder: Path, seed: int) -> None:
    """Does nothing, because pictures are made in memory."""


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    cases = []
    for ending in ("png", "jpg", "webp"):
        for words in (*SAME_LENGTH, *OTHER_LENGTH):
            cases += [Case(f"{ending}: {words}", functools.partial(_bytes, f"a.{ending}", words, None))] * _TIMES
            cases += [
                Case(f"mask beside {ending}: {words}", functools.partial(_bytes, "a.mask.png", words, ending))
            ] * 2
    for name in ("a.png", "a.mask.png", "a.txt"):
        cases += [
            Case(f"{words} as {name}", functools.partial(_place, name, make)) for words, make in NOT_FILES.items()
        ]
    for words, (files, expected, must_load) in _kinds():
        cases.append(Case(words, functools.partial(_made, files, expected, must_load)))
    return cases


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (_SIZE[1], _SIZE[0], 3), np.uint8))


def _half() -> Image.Image:
    """A mask that is white on the left."""
    array = np.zeros((_SIZE[1], _SIZE[0]), np.uint8)
    array[:, : _SIZE[0] // 2] = 255
    return Image.fromarray(array)


def _encode(image: Image.Image, ending: str = "png", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpg": "jpeg"}.get(ending, ending), **options)
    return file.getvalue()


def _facts(folder: Path) -> Any:
    """Pixels, masks and captions. A mask that is white everywhere counts as no mask."""
    pictures = []
    for picture in read_pictures(folder):
        white = picture.mask is None or np.asarray(picture.mask).min() == 255
        pictures.append({"image": picture.image, "mask": None if white else picture.mask, "caption": picture.caption})
    return facts_of(pictures)


def _expect(image: Image.Image | None = None, mask: Image.Image | None = None, caption: str | None = None) -> Any:
    return facts_of([{"image": image or _noise(), "mask": mask, "caption": caption}])


def _sound(ending: str) -> dict[str, bytes]:
    return {f"a.{ending}": _encode(_noise(), ending), "a.mask.png": _encode(_half()), "a.txt": _CAPTION.encode()}


def _write(scratch: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (scratch / name).write_bytes(data)


def _made(
    files: dict[str, bytes], expected: tuple[Any, ...], must_load: bool, rng: np.random.Generator, scratch: Path
) -> Trial:
    _write(scratch, files)
    return Trial(call=lambda: _facts(scratch), accept=expected, must_load=must_load)


def _bytes(name: str, words: str, ending: str | None, rng: np.random.Generator, scratch: Path) -> Trial:
    files = _sound(ending or name.split(".")[1])
    _write(scratch, {**files, name: damage(words, files[name], rng)})
    with Image.open(io.BytesIO(files[f"a.{ending or name.split('.')[1]}"])) as image:
        sound = _expect(image.convert("RGB"), _half(), _CAPTION)
    # JPEG and WebP have no checksum, and readers may ignore that of PNG. So other pixels are counted as "apart".
    return Trial(call=lambda: _facts(scratch), accept=(sound,), apart=lambda facts: facts[0]["caption"] == _CAPTION)


def _place(name: str, make: Callable[[Path], Path], rng: np.random.Generator, scratch: Path) -> Trial:
    files = _sound("png")
    _write(scratch, {key: data for key, data in files.items() if key != name})
    make(scratch / name)
    there = (scratch / name).exists()
    # A missing file, or one with another name, is not damage.
    missing = _expect(
        None if name == "a.png" else _noise(), None if "mask" in name else _half(), None if "txt" in name else _CAPTION
    )
    return Trial(
        call=lambda: _facts(scratch),
        accept=(Matching(_is_text_file),) if name == "a.txt" and there else (missing,) * (name != "a.png"),
    )


def _is_text_file(facts: Any) -> bool:
    """Whether the caption is a text that can be printed."""
    caption = facts[0]["caption"]
    return caption is None or (isinstance(caption, str) and caption.isprintable())


def _kinds() -> Iterator[tuple[str, tuple[dict[str, bytes], tuple[Any, ...], bool]]]:
    """(what it is, (files, allowed results, whether it must be read))."""
    picture = {"a.png": _encode(_noise())}
    grey = _noise().convert("L")
    as_rgb = (_expect(grey.convert("RGB")),)
    deep = np.asarray(grey, np.uint16) * 257
    for words, image, accept in (
        ("a grey picture", grey, as_rgb), ("16 bits", Image.fromarray(deep), as_rgb),
        ("a palette", _noise().quantize(8), (_expect(_noise().quantize(8).convert("RGB")),)),
        ("one bit", grey.convert("1"), (_expect(grey.convert("1").convert("RGB")),)),
        ("grey and opaque", grey.convert("LA"), as_rgb), ("opaque", _noise().convert("RGBA"), (_expect(),)),
        ("transparent", Image.new("RGBA", _SIZE, (0, 0, 0, 0)), (_expect(Image.new("RGB", _SIZE, "white")),)),
    ):  # fmt: skip
        yield words, ({"a.png": _encode(image)}, accept, True)
    yield "CMYK", ({"a.jpg": _encode(_noise().convert("CMYK"), "jpg")}, (Matching(lambda facts: True),), True)
    yield "a TIFF called PNG", ({"a.png": _encode(_noise(), "tiff")}, (_expect(),), False)
    yield "an EPS called PNG", ({"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"}, (), False)
    yield "a bomb of 10^10 pixels", ({"a.png": _bomb(100_000, 100_000)}, (), False)
    yield "a bomb of 2^31 pixels a side", ({"a.png": _bomb(2**31 - 1, 2**31 - 1)}, (), False)
    yield "a picture of no pixels", ({"a.png": _bomb(0, 0)}, (), False)
    yield "a text chunk that unpacks to 100 MB", ({"a.png": _text_bomb()}, (_expect(),), False)
    yield (
        "one pixel",
        ({"a.png": _encode(Image.new("RGB", (1, 1), "red"))}, (_expect(Image.new("RGB", (1, 1), "red")),), False),
    )
    yield from _masks(picture)
    yield from _captions(picture)


def _masks(picture: dict[str, bytes]) -> Iterator[tuple[str, tuple[dict[str, bytes], tuple[Any, ...], bool]]]:
    half, accept = _half(), (_expect(mask=_half()),)
    clear = Image.new("RGBA", _SIZE, (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (0, 0, _SIZE[0] // 2, _SIZE[1]))
    deep = Image.fromarray(np.asarray(half, np.uint16) * 257)
    for words, mask in (
        ("RGB", half.convert("RGB")),
        ("RGBA", clear),
        ("16 bits", deep),
        ("one bit", half.convert("1")),
        ("a palette", half.convert("P")),
    ):
        yield f"a mask of {words}", ({**picture, "a.mask.png": _encode(mask)}, accept, True)
    for name in ("a.MASK.PNG", "A.mask.png", "a.Mask.Png"):
        yield f"a mask called {name}", ({**picture, name: _encode(half)}, accept, name == "a.MASK.PNG")
    yield "a mask of another size", ({**picture, "a.mask.png": _encode(Image.new("L", (3, 3), 255))}, (), False)
    yield "a bomb as a mask", ({**picture, "a.mask.png": _bomb(100_000, 100_000)}, (), False)


def _captions(picture: dict[str, bytes]) -> Iterator[tuple[str, tuple[dict[str, bytes], tuple[Any, ...], bool]]]:
    accept = (_expect(caption=_CAPTION),)
    for words, data, must in (
        ("UTF-8", _CAPTION.encode(), True), ("UTF-8 with a byte order mark", _CAPTION.encode("utf-8-sig"), True),
        ("UTF-16", _CAPTION.encode("utf-16"), False),
        ("UTF-16, big end first", b"\xfe\xff" + _CAPTION.encode("utf-16-be"), False),
        ("UTF-32", _CAPTION.encode("utf-32"), False), ("UTF-16 without a mark", _CAPTION.encode("utf-16-le"), False),
        ("cp1252", _CAPTION.encode("cp1252"), False),
        ("Windows' line ends", _CAPTION.replace(", ", ",\r\n").encode(), True),
        ("lines at the end", _CAPTION.encode() + b"\n\n  \n", True),
        ("letters without width", _CAPTION.replace("snow", "sn\u200bow").encode(), False),
    ):  # fmt: skip
        yield f"a caption in {words}", ({**picture, "a.txt": data}, accept, must)
    for words, more in (("a NUL", b"\0"), ("escape sequences", b"\x1b[31m")):
        yield (
            f"a caption with {words}",
            ({**picture, "a.txt": _CAPTION.encode() + more}, (Matching(_is_text_file),), False),
        )
    yield "a caption called a.TXT", ({**picture, "a.TXT": _CAPTION.encode()}, accept, True)
    yield "a caption of nothing", ({**picture, "a.txt": b""}, (_expect(caption=""), _expect()), False)
    yield "a caption of 100 MB", ({**picture, "a.txt": b"a " * (50 << 20)}, (), False)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _bomb(width: int, height: int) -> bytes:
    """A PNG whose header states this size, with little data."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + _chunk(b"IEND", b"")
    )


def _text_bomb() -> bytes:
    data = _encode(_noise())
    return data[:33] + _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))) + data[33:]
