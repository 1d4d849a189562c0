"""Object stores: in memory, and S3 as moto's server speaks it."""

from __future__ import annotations

import filecmp
import random
import threading
import time
from pathlib import Path

import pytest
from bucket_builders import s3_bucket, url

from blocklora_jax.errors import UserError
from blocklora_jax.storage import objects
from blocklora_jax.storage.address import is_remote, url_of
from blocklora_jax.storage.copies import SETTING, fetch
from blocklora_jax.storage.lease import take_lease
from blocklora_jax.storage.mirror import Mirror
from blocklora_jax.storage.objects import ObjectFolder, list_files

__all__ = ["s3_bucket", "url"]


def test_an_address_survives_being_a_path():
    for address in ("gs://bucket/run", "s3://bucket/a/b"):
        assert is_remote(Path(address))
        assert url_of(Path(address)) == address
    assert not is_remote("/runs/ada")
    assert not is_remote("C:/runs")


def test_files_are_written_listed_and_removed(url):
    folder = ObjectFolder(url)
    assert folder.read("x") is None
    assert folder.names() == []
    folder.write("x", b"1")
    folder.write("a/b", b"22")
    folder.write("x", b"3")
    assert folder.read("x") == b"3"
    assert folder.names() == ["x"]
    assert sorted(list_files(folder)) == ["a/b", "x"]
    folder.remove("x")
    folder.remove("x")
    assert folder.names() == []


def test_a_large_file_is_sent_and_fetched_in_pieces(url, tmp_path, monkeypatch):
    size = 5 << 20  # the smallest piece that S3 takes
    settings = {"chunksize": size, "max_concurrency": 2}
    monkeypatch.setattr(objects, "PIECE", size)
    for table in (objects._IN_PIECES, objects._FETCHED_IN_PIECES):
        monkeypatch.setitem(table, "s3", settings)
    (tmp_path / "large").write_bytes(random.Random(0).randbytes(2 * size + 7))
    folder = ObjectFolder(url)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("the file was read whole"))
    Mirror(tmp_path, folder).upload()
    folder.fetch("large", tmp_path / "copy")
    assert filecmp.cmp(tmp_path / "large", tmp_path / "copy", shallow=False)
    assert not folder.upload("large", tmp_path / "copy", new=True)
    assert folder.upload("other", tmp_path / "copy", new=True)
    assert folder.size("other") == 2 * size + 7


def test_of_several_writers_one_creates_the_object(url):
    made, start = [], threading.Barrier(8)

    def create(i: int) -> None:
        folder = ObjectFolder(url)
        start.wait()
        made.append(folder.create("lease.0.json", str(i).encode()))

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.count(True) == 1


def test_leases_work_by_the_clock_of_the_store(url):
    folder = ObjectFolder(url)
    lease = take_lease(folder, "a", 100.0)
    assert lease is not None
    assert take_lease(folder, "a", 100.0) is None
    assert 0 <= folder.age("a.0.json") < 100
    assert folder.age("b.0.json") is None
    lease.release("done")
    assert take_lease(folder, "a", 100.0) is not None


def test_a_lease_of_another_machine_that_is_silent_is_taken_over(url):
    folder = ObjectFolder(url)
    folder.write("a.0.json", b'{"state": "held", "note": "", "machine": "elsewhere", "process": 1}')
    time.sleep(2.1)
    assert take_lease(folder, "a", 60.0) is None
    assert take_lease(folder, "a", 1.0) is not None


def test_a_mirror_uploads_finished_files_and_removes_what_the_run_removed(url, tmp_path):
    names = ["config.json", "checkpoints/2/default/x", "checkpoints/2/blocklora_seal.json"]
    for name in [*names, ".lock", ".blocklora-1-2-3-4.part", "checkpoints/4.orbax-checkpoint-tmp-1/default/x"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    mirror = Mirror(tmp_path, ObjectFolder(url), every=0.05)
    mirror.upload()
    assert sorted(list_files(ObjectFolder(url))) == sorted(names)
    (tmp_path / names[1]).unlink()
    (tmp_path / "config.json").write_text("changed")
    mirror.start()
    mirror.finish(30.0)
    assert sorted(list_files(ObjectFolder(url))) == [names[2], names[0]]
    assert ObjectFolder(url).read("config.json") == b"changed"


def test_at_the_end_a_mirror_waits_no_longer_than_it_may(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("x")
    remote = ObjectFolder("memory://slow/run")
    monkeypatch.setattr(remote, "write", lambda name, data: time.sleep(5))
    mirror = Mirror(tmp_path, remote, every=0.01)
    mirror.start()
    began = time.monotonic()
    with pytest.raises(UserError, match="not all files are in memory://slow/run .it takes longer than 0 seconds"):
        mirror.finish(0.2)
    assert time.monotonic() - began < 3


def test_a_store_that_refuses_is_one_line_at_the_end(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("x")
    remote = ObjectFolder("memory://full/run")

    def refuse(*args, **kwargs):
        raise PermissionError("no rights")

    monkeypatch.setattr(remote.files, "pipe_file", refuse)
    mirror = Mirror(tmp_path, remote, every=0.01)
    mirror.start()
    with pytest.raises(UserError, match="cannot write memory://full/run: no rights; check the address"):
        mirror.finish(30.0)


def test_inputs_are_fetched_once_and_again_when_they_change(url, tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(tmp_path))
    folder = ObjectFolder(url)
    folder.write("a.png", b"a")
    folder.write("sub/b.txt", b"b")
    copy = fetch(url)
    assert {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*") if p.is_file()} == {
        "a.png": b"a", "sub/b.txt": b"b",
    }  # fmt: skip
    before = (copy / "a.png").stat().st_mtime_ns
    folder.write("sub/b.txt", b"new")
    folder.remove("a.png")
    folder.write("c.png", b"c")
    fetch(url)
    assert sorted(p.name for p in copy.rglob("*") if p.is_file()) == ["b.txt", "c.png"]
    assert (copy / "sub" / "b.txt").read_bytes() == b"new"
    assert before
    assert fetch(f"{url}/c.png").read_bytes() == b"c"
    with pytest.raises(UserError, match="there is no file or folder"):
        fetch(f"{url}/none")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs:// addresses need gcsfs: pip install 'blocklora_jax\[gs\]'"):
        ObjectFolder("gs://bucket/run")
