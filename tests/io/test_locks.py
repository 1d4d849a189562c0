"""Locks between processes and threads: one holder at a time, none left behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest

from blocklora_jax.errors import UserError
from blocklora_jax.io.locks import hold, hold_file

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from blocklora_jax.io.locks import hold
with hold(Path(sys.argv[1]), "training in"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_was_made_only_for_the_lock_is_removed_again(tmp_path):
    with hold(tmp_path / "a" / "b", "training in"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "b", "training in"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "in\n"
        with (
            pytest.raises(UserError, match=r"another process is training in .*run: wait for it, or choose another"),
            hold(tmp_path / "run", "training in"),
        ):
            pass
        # The same folder under another name.
        (tmp_path / "alias").symlink_to(tmp_path / "run")
        with pytest.raises(UserError, match="another process is training in"), hold(tmp_path / "alias", "training in"):
            pass
        holder.kill()
    with hold(tmp_path / "run", "training in"):
        pass


def test_a_second_holder_in_the_same_thread_is_refused_too(tmp_path):
    with hold(tmp_path, "training in"):
        for patience in (0.0, 0.05):
            with pytest.raises(UserError, match="another process"), hold(tmp_path, "training in", patience):
                pass


def test_the_lock_has_one_holder_at_a_time_though_its_file_is_removed_each_time(tmp_path):
    inside, most, path = [], [], tmp_path / "lock"

    def work() -> None:
        for _ in range(20):
            with hold_file(path, "busy", patience=30):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)
    assert not path.exists()


@pytest.mark.parametrize("place", ["file", "file/run", "file/a/b"])
def test_a_file_in_the_way_is_named(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match=r"cannot write in .*file is a file; choose another place"),
        hold(tmp_path / place, "training in"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_nothing_can_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with (
        pytest.raises(UserError, match=r"cannot write in .*run: Permission denied"),
        hold(tmp_path / "run", "training in"),
    ):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_the_file_itself_is_the_lock(tmp_path, monkeypatch, number):
    def refuse(self, *args, **kwargs):
        raise OSError(number, "not here")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with hold(tmp_path, "training in"):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(UserError, match="another process"), hold(tmp_path, "training in"):
            pass
    assert list(tmp_path.iterdir()) == []
