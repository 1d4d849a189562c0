"""Leases: one holder at a time, whoever dies, waits or loses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from blocklora_jax.storage.folder import LocalFolder
from blocklora_jax.storage.lease import last_note, take_lease

ROOT = Path(__file__).parents[2]
HOUR = 3600.0


@pytest.fixture
def folder(tmp_path):
    return LocalFolder(tmp_path)


def make_silent(folder: LocalFolder, file: str, seconds: float, machine: str = "elsewhere") -> None:
    """The lease is that of a process of another machine, which renewed it `seconds` ago."""
    record = json.loads(folder.read(file) or b"") | {"machine": machine}
    folder.write(file, json.dumps(record).encode())
    now = os.stat(folder.path / file).st_mtime
    os.utime(folder.path / file, (now - seconds, now - seconds))


def test_of_many_threads_one_gets_the_lease(folder):
    leases, start = [], threading.Barrier(16)

    def take() -> None:
        start.wait()
        leases.append(take_lease(folder, "a", HOUR))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in leases) == 1
    assert take_lease(folder, "b", HOUR) is not None


def test_a_released_lease_is_free_at_once_and_says_why(folder):
    lease = take_lease(folder, "a", HOUR)
    assert last_note(folder, "a") == ""
    lease.release("done")
    assert last_note(folder, "a") == "done"
    second = take_lease(folder, "a", HOUR)
    assert second is not None
    assert second.taken_over
    assert take_lease(folder, "a", HOUR) is None


def test_a_silent_holder_of_another_machine_loses_the_lease_and_notices(folder):
    lease = take_lease(folder, "a", 100.0)
    make_silent(folder, "a.0.json", 90.0)
    assert take_lease(folder, "a", 100.0) is None
    make_silent(folder, "a.0.json", 110.0)
    assert take_lease(folder, "a", 100.0) is not None
    assert not lease.is_held()


def test_renewing_keeps_the_lease(folder):
    lease = take_lease(folder, "a", 100.0)
    make_silent(folder, "a.0.json", 110.0)
    assert lease.is_held()
    assert take_lease(folder, "a", 100.0) is None


def test_the_lease_of_a_process_that_died_on_this_machine_is_free_at_once(folder):
    code = (
        "import sys; from pathlib import Path; from blocklora_jax.storage.folder import LocalFolder;"
        "from blocklora_jax.storage.lease import take_lease;"
        "assert take_lease(LocalFolder(Path(sys.argv[1])), 'a', 3600.0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(folder.path)], env=environment, check=True)
    assert take_lease(folder, "a", HOUR) is not None


def test_the_thread_renews_and_reports_a_loss(folder):
    lost = threading.Event()
    lease = take_lease(folder, "a", 0.2)
    lease.renew_until_released(lost.set)
    assert not lost.wait(0.5)
    # Another machine took it, after a pause of this one.
    assert folder.create("a.1.json", b"{}")
    assert lost.wait(2.0)


def test_a_damaged_lease_is_held_until_it_is_old(folder):
    assert folder.create("a.0.json", b"\0half")
    assert take_lease(folder, "a", 100.0) is None
    now = os.stat(folder.path / "a.0.json").st_mtime
    os.utime(folder.path / "a.0.json", (now - 200, now - 200))
    assert take_lease(folder, "a", 100.0) is not None


def test_without_hard_links_a_file_is_still_created_once(folder, monkeypatch):
    def refuse(*paths):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert folder.create("x", b"1")
    assert not folder.create("x", b"2")
    assert folder.read("x") == b"1"
    assert folder.names() == ["x"]


def test_the_age_is_told_by_the_clock_of_the_files(folder, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    folder.write("x", b"")
    assert folder.age("x") < 60.0
    assert folder.age("none") is None
    assert folder.names() == ["x"]
