"""Caption files, as editors on different systems write them."""

from __future__ import annotations

import codecs
import os

import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import visible_text
from train.concept.captions import read_captions

TEXT = "a photo of <ada> mån, 猫"


def read(folder, data: bytes) -> str:
    path = folder / "0.txt"
    path.write_bytes(data)
    [caption] = read_captions([path])
    return caption


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        f"{TEXT}\r\n".encode("utf-8-sig"),
        # Two files with byte order marks, joined.
        f"a photo\ufeff of {TEXT.removeprefix('a photo of ')}".encode("utf-8-sig"),
    ],
)
def test_a_byte_order_mark_gives_the_encoding_and_is_not_part_of_the_text(tmp_path, data):
    assert read(tmp_path, data) == TEXT


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (TEXT.removesuffix(", 猫").encode("cp1252"), "byte 0xe5 at 18 is not UTF-8"),
        (TEXT.encode("utf-16-le"), "is not UTF-8"),
        ("a photo of <ada>".encode("utf-16-le"), "zero bytes"),
        (b"\xff\xfe\x00", "byte 0x00 at 2 is not UTF-16"),
        ("日本".encode("shift-jis"), "is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8"),
        (b"a\0b", "zero bytes"),
        ("caf\ufffd <ada>".encode(), r"U\+FFFD"),
        (b"<ada> " + b"x" * 70000, "larger than 64 kB"),
    ],
)
def test_files_that_are_not_text_or_of_unknown_encoding_are_named_with_advice(tmp_path, data, reason):
    with pytest.raises(UserError, match=rf"cannot read 0\.txt \(.*{reason}.*\): .* save them as UTF-8") as error:
        read(tmp_path, data)
    assert "png" not in str(error.value)
    assert "\n" not in str(error.value)


def test_all_files_at_fault_are_named_at_once(tmp_path):
    good, bad, pipe = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    good.write_text("x")
    bad.write_bytes(b"\xe9")
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"cannot read b\.txt \(.*\); c\.txt \(not a file\); d\.txt \(not a file\):"):
        read_captions([good, bad, pipe, tmp_path / "d.txt"])


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("<ada>\u200b man", "<ada> man"),
        ("\u2060<a\u00adda>\u200e \u202eman\u202c", "<ada> man"),
        ("a\u00a0photo\u3000of\u2028<ada>", "a photo of <ada>"),
        ("a\tphoto\x0bof\x85<ada>", "a photo of <ada>"),
        ("<ada>\x08\x1b\x7f man\x00", "<ada> man"),
        ("<ada> \u200b man", "<ada> man"),
        ("<ada>\u3164\u2800 man\u034f", "<ada> man"),
        ("m\u200dan <ada\ufe0f>", "man <ada>"),
        # Invisible characters within emoji stay.
        ("<ada> \u2764\ufe0f\u200d\U0001f525", "<ada> \u2764\ufe0f\u200d\U0001f525"),
        ("\U0001f469\U0001f3fd\u200d\U0001f52c", "\U0001f469\U0001f3fd\u200d\U0001f52c"),
        ("e\u0301 ñ 猫 'x'", "e\u0301 ñ 猫 'x'"),
        ("", ""),
    ],
)
def test_invisible_characters_do_not_reach_the_tokenizer(text, seen):
    assert visible_text(text) == seen
