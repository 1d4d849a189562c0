"""The file of a registry: several writers, a crash, and a URL."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.registry import store
from blocklora_jax.registry.claims import Entry, Registry
from blocklora_jax.registry.store import create_registry, read_registry, update_registry
from blocklora_jax.storage.objects import ObjectFolder

EMPTY = Registry(partition=Partition(num_blocks=64))


def claim(name: str):
    return lambda registry: registry.claim(Entry(name=name, token=f"<{name}>", slots=registry.draw_slots(name, "free")))


@pytest.fixture
def path(tmp_path):
    return create_registry(tmp_path / "shared", EMPTY)


def test_a_folder_and_its_file_are_one_registry(path, tmp_path):
    assert path == tmp_path / "shared" / "registry.json"
    update_registry(tmp_path / "shared", claim("ada"))
    assert read_registry(path) == read_registry(str(tmp_path / "shared"))
    assert read_registry(path).find("<ada>").slots == (0,)
    with pytest.raises(UserError, match="exists"):
        create_registry(path, EMPTY)


def test_many_writers_at_once_lose_nothing(path):
    def write(writer: int) -> None:
        for i in range(5):
            update_registry(path, claim(f"p{writer}-{i}"))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry = read_registry(path)
    assert len(registry.entries) == 20
    assert registry.collisions() == []
    assert [p.name for p in path.parent.iterdir()] == ["registry.json"]


def test_changes_made_by_hand_in_the_meantime_are_kept(path):
    def change(registry):
        path.write_text(json.dumps(claim("eve")(registry).to_json()))
        return claim("ada")(registry)

    with pytest.raises(UserError, match="changed by somebody else"):
        update_registry(path, change)
    assert [entry.name for entry in read_registry(path).entries] == ["eve"]
    update_registry(path, claim("ada"))
    assert read_registry(path).find("<ada>").slots == (1,)


def test_a_refused_change_leaves_the_file_as_it_was_and_no_lock(path):
    before = path.read_bytes()
    with pytest.raises(UserError, match="no entry"):
        update_registry(path, lambda registry: registry.drop("nobody"))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["registry.json"]


HOLDER = """
import sys, time
from pathlib import Path
from blocklora_jax.registry.store import update_registry
def change(registry):
    print("in", flush=True)
    time.sleep(60)
update_registry(Path(sys.argv[1]), change)
"""


def test_a_killed_writer_leaves_no_lock_but_a_running_one_is_waited_for(path, monkeypatch):
    monkeypatch.setattr(store, "_PATIENCE", 0.1)
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="being written by somebody else: nothing was written, try again"):
            update_registry(path, claim("ada"))
        assert read_registry(path) == EMPTY
        writer.kill()
    update_registry(path, claim("ada"))
    assert [entry.name for entry in read_registry(path).entries] == ["ada"]
    assert [p.name for p in path.parent.iterdir()] == ["registry.json"]


def test_a_lock_file_of_an_earlier_version_has_no_effect(path):
    path.with_name("registry.json.lock").touch()
    path.with_name(".registry.json.lock").touch()
    update_registry(path, claim("ada"))
    assert [entry.name for entry in read_registry(path).entries] == ["ada"]


@pytest.fixture
def url(path):
    """The folder of the registry, served at an address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(path.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_url_can_be_read_and_not_written(path, url, monkeypatch):
    update_registry(path, claim("ada"))
    assert read_registry(f"{url}/registry.json") == read_registry(path)
    for attempt in (update_registry, create_registry):
        with pytest.raises(UserError, match="can only be read: download"):
            attempt(f"{url}/registry.json", claim("bob") if attempt is update_registry else EMPTY)
    with pytest.raises(UserError, match=r"cannot fetch .*nothing\.json"):
        read_registry(f"{url}/nothing.json")
    monkeypatch.setattr(store, "_LARGEST", 50)
    with pytest.raises(UserError, match="longer than a registry can be"):
        read_registry(f"{url}/registry.json")


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no registry .*none\.json: start one with"):
        read_registry(tmp_path / "none.json")
    with pytest.raises(UserError, match="there is no registry"):
        update_registry(tmp_path / "none.json", claim("ada"))
    (tmp_path / "torn.json").write_text('{"blocklora_registry": 1,')
    with pytest.raises(UserError, match=r"torn\.json cannot be read as a registry .*not valid JSON"):
        read_registry(tmp_path / "torn.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        create_registry(tmp_path / "file" / "registry.json", EMPTY)


class _RudeHandler(BaseHTTPRequestHandler):
    """Answers wrongly, in the way that the path names."""

    def do_GET(self):
        if self.path == "/status":
            self.wfile.write(b"nonsense\r\n\r\n")
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{")
        elif self.path == "/headers":
            self.send_response(200)
            for number in range(200):
                self.send_header(f"X-{number}", "x")
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.05)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def rude():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _RudeHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("path", ["status", "short", "headers", "slow"])
def test_a_server_that_misbehaves_is_one_error(rude, path, monkeypatch):
    monkeypatch.setattr(store, "_FETCHING", 0.5)
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"^(cannot fetch {rude}/{path}: |{rude}/{path} cannot be read as a registry)"):
        read_registry(f"{rude}/{path}")
    assert time.monotonic() - began < 5


def test_a_file_without_end_is_refused(tmp_path):
    (tmp_path / "registry.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="cannot read .*registry.json: it is not an ordinary file"):
        read_registry(tmp_path)


def test_a_registry_in_an_object_store_is_claimed_by_many_writers_without_loss():
    where = f"memory://bucket/{uuid4().hex}"
    create_registry(where, EMPTY)
    with pytest.raises(UserError, match=r"registry\.json exists: add to it"):
        create_registry(where, EMPTY)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: update_registry(where, claim(f"c{i}")), range(8)))
    registry = read_registry(f"{where}/registry.json")
    assert sorted(slot for entry in registry.entries for slot in entry.slots) == list(range(8))
    # The lock leaves one small object.
    assert len(ObjectFolder(where).names()) == 2
    with pytest.raises(UserError, match="there is no registry memory://bucket/none/registry.json"):
        read_registry("memory://bucket/none")
