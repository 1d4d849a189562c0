"""Commands of `python -m merge` read and write files in object stores as they do on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from bucket_builders import s3_bucket, url

from blocklora_jax import StableDiffusion
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.storage.copies import SETTING, staging_folder
from blocklora_jax.storage.objects import ObjectFolder, list_files
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.manifest import read_merge_manifest

__all__ = ["s3_bucket", "url"]
NAMES = ("ada", "bob")


@pytest.fixture(autouse=True)
def staging(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(tmp_path / "staging"))


@pytest.fixture
def disk(tmp_path, tiny_sd):
    """A folder with two adapters."""
    for slot, name in enumerate(NAMES):
        adapter = random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv")
        adapter.save(tmp_path / "disk" / name / "adapter.safetensors")
    return tmp_path / "disk"


@pytest.fixture
def store(url, disk, tiny_folder):
    """A folder of a store with the same, and with the base model."""
    folder = ObjectFolder(url)
    for root, name in ((disk, "runs"), (Path(tiny_folder), "base")):
        for file in root.rglob("*"):
            if file.is_file():
                folder.write(f"{name}/{file.relative_to(root).as_posix()}", file.read_bytes())
    return folder


def files(folder: ObjectFolder, under: str = "") -> dict[str, bytes | None]:
    found = list_files(ObjectFolder(f"{folder}/{under}".rstrip("/")))
    return {name: folder.read(f"{under}/{name}".lstrip("/")) for name in found}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def adapters(root: object) -> list[str]:
    return [f"{root}/{name}/adapter.safetensors" for name in NAMES]


def without_base_name(found: dict) -> dict:
    return {name: data for name, data in found.items() if not name.endswith(".json")}


def test_a_merge_is_saved_in_a_store_as_on_a_disk_and_a_concept_is_removed_in_place(store, disk, tiny_folder, capsys):
    model, base = f"{store}/base", ["--model", str(tiny_folder)]
    main([f"{store}/runs/*/adapter.safetensors", "--model", model, "--save", f"{store}/merged"])
    assert f"wrote {store}/merged" in capsys.readouterr().out
    main([*adapters(disk), *base, "--save", str(disk / "merged")])
    saved, expected = files(store, "merged"), contents(disk / "merged")
    assert saved.keys() == expected.keys()
    assert without_base_name(saved) == without_base_name(expected)
    # Files of others in the folder stay, and the base is found again by its address.
    store.write("merged/notes.txt", b"mine")
    main(["remove", f"{store}/merged", "ada", "--out", f"{store}/merged"])
    main([adapters(disk)[1], *base, "--save", str(disk / "bob_alone")])
    left = files(store, "merged")
    assert left.pop("notes.txt") == b"mine"
    assert without_base_name(left) == without_base_name(contents(disk / "bob_alone"))
    (disk / "copy").mkdir()
    for name, data in left.items():
        (disk / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / "copy" / name).write_bytes(data)
    assert read_merge_manifest(disk / "copy", verify=True).base_name == model
    one, other = (StableDiffusion.from_pretrained(disk / name) for name in ("copy", "bob_alone"))
    assert params_digest(one.params) == params_digest(other.params)
    assert not list((staging_folder() / "outputs").iterdir())


def test_an_export_and_what_is_beside_it_are_those_of_a_disk_and_replace_nothing_else(store, disk):
    main(["export", *adapters(f"{store}/runs"), "--out", f"{store}/exports/both.safetensors"])
    main(["export", *adapters(disk), "--out", str(disk / "exports" / "both.safetensors")])
    assert files(store, "exports") == contents(disk / "exports")
    # What this program made is made again; what it did not make is not replaced.
    main(["export", adapters(f"{store}/runs")[0], "--out", f"{store}/exports/both.safetensors"])
    store.write("exports/mine.safetensors", b"mine")
    before = files(store)
    with pytest.raises(UserError, match=f"will not overwrite --out {store}/exports/mine.safetensors"):
        main(["export", *adapters(f"{store}/runs"), "--out", f"{store}/exports/mine.safetensors"])
    assert files(store) == before


def test_files_that_appear_meanwhile_are_not_replaced(store, monkeypatch):
    from merge.cli import export

    write = export.export

    def write_late(*args, **kwargs):
        store.write("out/both.safetensors", b"theirs")
        return write(*args, **kwargs)

    monkeypatch.setattr(export, "export", write_late)
    with pytest.raises(UserError, match=f"nothing was written: {store}/out/both.safetensors exist"):
        main(["export", *adapters(f"{store}/runs"), "--out", f"{store}/out/both.safetensors"])
    assert files(store, "out") == {"both.safetensors": b"theirs"}


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_inputs_are_not_written_over(store):
    before = files(store)
    ada, bob = adapters(f"{store}/runs")
    for out, words in (
        ([ada, "--save", f"{store}/base", "--model", f"{store}/base"], "is an input of this command"),
        ([ada, "--save", f"{store}/base/x", "--model", f"{store}/base"], "lies inside the input"),
        ([ada, "--save", f"{store}/runs", "--model", "pocket"], "contains the input"),
        (["export", ada, bob, "--out", bob], "is an input of this command"),
    ):
        with pytest.raises(UserError, match=words):
            main([out[0], *out[1:]])
        with pytest.raises(UserError, match=words):
            main([*out, "--overwrite"])
    assert files(store) == before


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_other_commands_take_addresses(store, disk, capsys):
    runs, base = adapters(f"{store}/runs"), ["--model", f"{store}/base"]
    main(["info", runs[0]])
    assert f"file:     {runs[0]}, " in capsys.readouterr().out
    main(["check", *runs, *base, "--alike", "True", "--out", f"{store}/map.png"])
    assert f"wrote {store}/map.png" in capsys.readouterr().out
    assert store.read("map.png").startswith(b"\x89PNG")
    main(["library", "scan", f"{store}/runs"])
    assert f"wrote {store}/runs/library.yaml: 2 files" in capsys.readouterr().out
    assert b"ada/adapter.safetensors" in store.read("runs/library.yaml")
    main(["library", "list", f"{store}/runs"])
    assert "bob" in capsys.readouterr().out
    main(["export", f"{store}/runs", "--out", f"file://{disk}/from_library.safetensors"])
    main(["export", *adapters(disk), "--out", str(disk / "from_files.safetensors")])
    exported = [(disk / name).read_bytes() for name in ("from_library.safetensors", "from_files.safetensors")]
    assert exported[0] == exported[1]


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_what_is_wrong_is_one_line_with_the_address(store, capsys):
    for words, args in (
        (f"there is no file or folder {store}/none.safetensors", ["info", f"{store}/none.safetensors"]),
        (f"there is no file or folder {store}/*.bin", ["info", f"{store}/*.bin"]),
        (f"{store}/base/unet/config.json", ["info", f"{store}/base/unet/config.json"]),
        ("memory://bucket is no place for files", ["export", adapters(f"{store}/runs")[0], "--out", "memory://bucket"]),
    ):
        with pytest.raises(SystemExit):
            run(lambda args=args: main(args))
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert str(staging_folder()) not in error


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_if_the_store_refuses_the_results_are_kept_here(store, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("no rights")

    monkeypatch.setattr(store.files, "pipe_file", refuse)
    message = f"cannot write {store}/out.*: no rights.*results are in {staging_folder()}"
    with pytest.raises(UserError, match=message) as error:
        main(["export", *adapters(f"{store}/runs"), "--out", f"{store}/out/both.safetensors"])
    kept = Path(str(error.value).rpartition(" in ")[2])
    assert [path.name for path in kept.rglob("both.safetensors")] == ["both.safetensors"]
