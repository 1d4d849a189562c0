"""The library of adapters, and uploads: names from a browser are looked up or checked, and never lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from blocklora_jax.testing.random_adapter import random_adapter
from train.app import library as app_library
from train.app.library import Library, previews
from train.app.uploads import copy_uploads, free_name

BAD_NAMES = ["..", "../ada", "/etc", "a/b", "a\\b", "", " ", ".ada", "con", "a\0b", "a" * 200]


@pytest.fixture
def library(tmp_path, tiny_sd):
    library = Library(tmp_path / "runs")
    for slot, name in enumerate(("bob", "ada")):
        (library.root / name).mkdir(parents=True)
        random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv").save(
            library.root / name / "adapter.safetensors"
        )
    return library


def test_it_holds_the_folders_that_have_an_adapter(library):
    (library.root / "pictures").mkdir()
    (library.root / "broken").mkdir()
    (library.root / "broken" / "adapter.safetensors").write_bytes(b"no adapter")
    entries, problems = library.entries()
    assert [entry.name for entry in entries] == ["ada", "bob"]
    assert len(problems) == 1
    assert "broken" in problems[0]
    assert entries[0].label == "ada · <ada> man · rank 2, slot 1 of 4"


def test_a_missing_folder_is_an_empty_library(tmp_path):
    assert Library(tmp_path / "none").entries() == ([], [])


@pytest.mark.parametrize("name", [*BAD_NAMES, "eve", "/etc/passwd"])
def test_only_names_in_the_library_are_found(library, name):
    with pytest.raises(UserError, match="the library has no concept"):
        library.find([name])


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_new_folder_never_lies_outside(library, name):
    with pytest.raises(UserError, match="the concept's name"):
        library.new_folder(name)


def test_a_name_that_is_taken_in_any_case_is_refused(library):
    with pytest.raises(UserError, match="there is a folder ada in the library already"):
        library.new_folder("Ada")


def test_a_link_that_leads_out_is_not_followed(library, tmp_path, tiny_sd):
    outside = tmp_path / "outside"
    outside.mkdir()
    random_adapter("eve", tiny_sd.params, slots=(2,), layers="cross_kv").save(outside / "adapter.safetensors")
    (library.root / "eve").symlink_to(outside)
    assert [entry.name for entry in library.entries()[0]] == ["ada", "bob"]


def test_only_the_files_that_are_asked_for_are_read(library, monkeypatch):
    (library.root / "bob" / "adapter.safetensors").write_bytes(b"no adapter")
    read = []
    monkeypatch.setattr(app_library, "read_adapter", lambda path: read.append(path.parent.name))
    assert [entry.name for entry in library.find(["ada"])] == ["ada"]
    assert read == ["ada"]
    monkeypatch.undo()
    with pytest.raises(UserError, match="bob/adapter.safetensors"):
        library.find(["ada", "bob"])


def test_a_file_that_changes_is_read_again(library, tiny_sd):
    before = library.find(["ada"])[0].adapter
    assert library.find(["ada"])[0].adapter is before
    random_adapter("ada", tiny_sd.params, slots=(3,), layers="cross_kv").save(
        library.root / "ada" / "adapter.safetensors"
    )
    assert library.find(["ada"])[0].adapter.info.slots == (3,)


def test_an_adapter_file_is_added_under_the_name_that_it_states(library, tmp_path, tiny_sd):
    path = tmp_path / "download.safetensors"
    random_adapter("eve", tiny_sd.params, slots=(2,), layers="cross_kv").save(path)
    assert library.add_file(path).name == "eve"
    with pytest.raises(UserError, match="already"):
        library.add_file(path)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError):
        library.add_file(tmp_path / "x.safetensors")
    assert sorted(path.name for path in library.root.iterdir()) == ["ada", "bob", "eve"]


def test_its_picture_is_the_first_of_the_last_preview(library):
    entry = library.find(["ada"])[0]
    assert entry.picture() is None
    images = np.zeros((8, 16, 16, 3), np.uint8)
    images[0] = 200
    for step in (2, 10):
        grid = picture_grid(images if step == 10 else images * 0, ["a photo"] * 8, columns=4, scale=16)
        write_atomic(entry.folder / "previews" / f"{step:06d}.png", png_bytes(grid))
    write_atomic(entry.folder / "previews" / "9 copy.png", b"somebody's file")
    assert [path.stem for path in previews(entry.folder)] == ["000002", "000010"]
    assert np.asarray(entry.picture()).min() == 200
    assert entry.picture().size == (256, 256)


def uploads(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (16, 16)).save(folder / name, "PNG")
    return [folder / name for name in names]


def test_uploads_are_copied_under_their_names(tmp_path):
    copy_uploads(uploads(tmp_path / "sent", "a.PNG", "a.mask.png", "a.txt"), tmp_path / "run" / "pictures")
    assert sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir()) == ["a.PNG", "a.mask.png", "a.txt"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there are no pictures"),
        (["a.exe"], "a.exe is no picture and no caption"),
        (["a.png", "A.png"], "two files are called A.png"),
        ([".hidden.png"], "begins with a dot"),
    ],
)
def test_other_uploads_are_refused_and_nothing_is_copied(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        copy_uploads(uploads(tmp_path / "sent", *names), tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()


def test_a_free_name_is_numbered(tmp_path):
    assert free_name(tmp_path, "both") == tmp_path / "both"
    (tmp_path / "both").mkdir()
    assert free_name(tmp_path, "both") == tmp_path / "both-2"
