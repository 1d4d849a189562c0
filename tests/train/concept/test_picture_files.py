"""Which files of a folder are pictures, captions and masks, and which are ignored."""

from __future__ import annotations

import warnings

import pytest

from blocklora_jax.errors import UserError
from train.concept.picture_files import SUFFIXES, find_pictures


def make(folder, *names: str):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def named(folder, **options) -> list[tuple[str | None, ...]]:
    """The names of the files that are found, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [tuple(path and path.name for path in each) for each in find_pictures(folder, **options)]


def notice(folder) -> str:
    with pytest.warns(UserWarning, match="ignored") as caught:
        find_pictures(folder)
    [warning] = caught
    return str(warning.message)


@pytest.mark.parametrize("caption", ["a.txt", "a.TXT", "a.Txt", "A.txt", None])
@pytest.mark.parametrize("mask", ["a.mask.png", "a.MASK.PNG", "a.Mask.png", "A.Mask.PNG", None])
def test_captions_and_masks_are_found_in_any_case(tmp_path, caption, mask):
    make(tmp_path, "a.JPG", *(name for name in (caption, mask) if name))
    assert named(tmp_path) == [("a.JPG", caption, mask)]


def test_names_with_accents_match_however_a_system_writes_them(tmp_path):
    # macOS writes a letter and its accent as two characters, other systems as one.
    make(tmp_path, "\u00e9.png", "e\u0301.txt")
    assert named(tmp_path) == [("\u00e9.png", "e\u0301.txt", None)]


def test_where_case_tells_pictures_apart_captions_are_told_apart_too(tmp_path):
    make(tmp_path, "A.png", "a.png", "a.txt")
    assert named(tmp_path) == [("A.png", None, None), ("a.png", "a.txt", None)]


def test_pictures_of_one_name_share_their_caption_and_mask(tmp_path):
    make(tmp_path, "a.jpg", "a.png", "a.txt", "a.mask.png")
    assert named(tmp_path) == [("a.jpg", "a.txt", "a.mask.png"), ("a.png", "a.txt", "a.mask.png")]


@pytest.mark.parametrize("twice", [("a.txt", "a.TXT"), ("a.mask.png", "a.MASK.png"), ("A.txt", "A.TXT")])
def test_two_captions_or_masks_of_one_picture_are_named(tmp_path, twice):
    make(tmp_path, "a.png", *twice)
    with pytest.raises(UserError, match=r"(?i)a\.\S+, a\.\S+ all belong to a\.png: keep one"):
        find_pictures(tmp_path)


def test_a_mask_without_a_picture_is_refused(tmp_path):
    make(tmp_path, "a.png", "b.mask.png")
    with pytest.raises(UserError, match=r"no picture belongs to b\.mask\.png: a\.mask\.png is the mask of a\.png"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("name", ["a.mask.jpg", "a.Mask.WEBP", "a.mask.tif"])
def test_a_mask_that_is_no_png_is_refused_and_no_picture(tmp_path, name):
    make(tmp_path, "a.png", name)
    with pytest.raises(UserError, match=r"masks are PNG files: save .* as a\.[mM]ask\.png"):
        find_pictures(tmp_path)
    assert named(tmp_path, companions=False) == [("a.png", None, None)]


def test_captions_without_a_picture_are_named_in_one_line(tmp_path):
    make(tmp_path, "a.png", "a.txt", "b.txt", "notes.TXT")
    assert "ignored: b.txt, notes.TXT (no picture of that name: a.txt is the caption of a.png)" in notice(tmp_path)


def test_pictures_that_are_not_read_are_named_in_one_line(tmp_path):
    others = ["a.psd", "b.DNG", "c.jxl", "d.svg", "e.nef", "f.cr2", "g.caption"]
    make(tmp_path, "a.png", "lone.txt", *others)
    message = notice(tmp_path)
    assert "a.psd, b.DNG, c.jxl, d.svg, e.nef and 2 more (only .png, .jpg, .jpeg, .webp" in message
    assert "lone.txt" in message
    assert "\n" not in message


def test_the_error_for_a_folder_without_readable_pictures_says_what_it_holds(tmp_path):
    make(tmp_path, "a.psd")
    (tmp_path / "b.png").mkdir()
    message = r"has no pictures \(.png, .*\); a\.psd \(only .* are read\); cannot read b\.png \(a folder\)"
    with pytest.raises(UserError, match=message):
        find_pictures(tmp_path)


def test_hidden_files_folders_and_files_of_systems_are_ignored(tmp_path):
    hidden = ["._a.png", ".a.png", "._a.txt", "._a.mask.png", ".DS_Store", "Thumbs.db", "desktop.ini", "._b.heic"]
    make(tmp_path, "a.png", *hidden)
    (tmp_path / "x.png").mkdir()
    (tmp_path / "x.mask.png").mkdir()
    (tmp_path / "x.txt").mkdir()
    assert named(tmp_path) == [("a.png", None, None)]


def test_all_kinds_of_pictures_are_found_in_upper_and_lower_case(tmp_path):
    make(tmp_path, *(f"a{suffix}" for suffix in SUFFIXES), *(f"b{suffix.upper()}" for suffix in SUFFIXES))
    assert {name for name, _, _ in named(tmp_path)} == {path.name for path in tmp_path.iterdir()}
    assert {".heic", ".avif", ".gif", ".tif"} < set(SUFFIXES)


def test_stray_folders_are_ignored(tmp_path):
    make(tmp_path, "a.png")
    for name in ("__MACOSX", ".thumbnails", "more"):
        make(tmp_path / name, "._a.png", "b.png", "b.mask.png", "b.txt")
    assert named(tmp_path) == [("a.png", None, None)]


def test_the_error_for_a_folder_without_pictures_names_the_folder_in_it_that_has_some(tmp_path):
    make(tmp_path / "__MACOSX", "._a.png", "a.png")
    make(tmp_path / "empty", "._a.png")
    make(tmp_path / "photos", "a.HEIC")
    with pytest.raises(UserError, match=r"has no pictures .*; there are pictures in its folder photos: give that one"):
        find_pictures(tmp_path)


def test_without_companions_captions_and_masks_are_ignored(tmp_path):
    make(tmp_path, "a.png", "a.txt", "b.txt", "b.mask.png", "a.MASK.png")
    assert named(tmp_path, companions=False) == [("a.png", None, None)]


def test_control_characters_in_names_are_not_printed(tmp_path):
    make(tmp_path, "a.png", "\x1b[2J.txt")
    assert r"\x1b[2J.txt" in notice(tmp_path)


def test_many_captions_are_matched_quickly(tmp_path):
    # Captions are looked up by name. Comparing each with each, 4,000,000 times, would take seconds.
    import time

    make(tmp_path, *(f"{i}.{suffix}" for i in range(2000) for suffix in ("png", "txt")))
    start = time.monotonic()
    assert all(each.caption for each in find_pictures(tmp_path))
    assert time.monotonic() - start < 2
