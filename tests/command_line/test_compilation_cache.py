"""Where commands keep compiled programs, and the line that says that compiling takes time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from blocklora_jax.command_line import compilation_cache
from blocklora_jax.command_line.compilation_cache import JAX_SETTING, SETTING, cache_folder, keep_compiled_programs
from blocklora_jax.command_line.compile_notice import compiling_is_announced

COMMAND = (
    "from blocklora_jax.command_line.runner import run\n"
    "def main():\n"
    "    import sys; assert 'jax' not in sys.modules\n"
    "    import jax; print(jax.jit(lambda x: x @ x)(jax.numpy.ones((3, 3))).sum())\n"
    "run(main)"
)


@pytest.fixture
def environment(tmp_path, monkeypatch) -> dict[str, str]:
    """Of a user whose cache folder is `tmp_path`/cache."""
    for name in (SETTING, JAX_SETTING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    return dict(os.environ)


def run_command(environment: dict[str, str]) -> None:
    ran = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, env=environment)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "27.0\n", "")


def test_a_command_keeps_its_programs_in_the_users_cache_folder(environment, tmp_path):
    run_command(environment)
    folder = tmp_path / "cache" / "blocklora" / "xla"
    programs = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert programs
    run_command(environment)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == programs


def test_the_setting_moves_the_folder_or_switches_it_off(environment, tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv(SETTING, "off")
    assert cache_folder() is None
    monkeypatch.delenv(SETTING)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "blocklora" / "xla"


def test_jaxs_own_setting_wins(environment, tmp_path):
    run_command(environment | {JAX_SETTING: str(tmp_path / "own"), SETTING: str(tmp_path / "other")})
    assert any((tmp_path / "own").iterdir()) and not (tmp_path / "other").exists()


def test_a_folder_that_is_a_file_or_cannot_be_written_fails_no_run(environment, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    run_command(environment | {SETTING: str(tmp_path / "file")})
    run_command(environment | {SETTING: str(tmp_path / "file" / "inside")})
    # Root may write everywhere, so the answer of the system is replaced.
    monkeypatch.setattr(os, "access", lambda *_: False)
    jax_setting = jax.config.jax_compilation_cache_dir
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == jax_setting and JAX_SETTING not in os.environ


def test_a_full_disk_switches_the_cache_off(environment, tmp_path, monkeypatch):
    assert compilation_cache._has_room(tmp_path / "cache")
    monkeypatch.setattr(compilation_cache, "_LEAST_FREE", 2**62)
    assert not compilation_cache._has_room(tmp_path / "cache")


def test_programs_that_nobody_reads_are_deleted_when_there_are_too_many(environment, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "blocklora" / "xla"
    folder.mkdir(parents=True)
    programs = [f"jit_step-{day:064x}-cache" for day in range(4)]
    # The last is not JAX's.
    for day, name in enumerate([*programs, "my-cache"]):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (86400 * (day % 4), 0))
    monkeypatch.setattr(compilation_cache, "_MOST_KEPT", 250)
    compilation_cache._drop_oldest(folder)
    assert sorted(path.name for path in folder.iterdir()) == [*programs[2:], "my-cache"]


def test_a_program_that_cannot_be_written_or_read_is_compiled_without_a_failure(environment, tmp_path):
    """A folder in the place of each program stands for an error of the disk."""
    run_command(environment)
    folder = tmp_path / "cache" / "blocklora" / "xla"
    for program in list(folder.iterdir()):
        program.unlink()
        program.mkdir()
    ran = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, env=environment)
    assert (ran.returncode, ran.stdout) == (0, "27.0\n")
    assert all(line.startswith("warning: ") for line in ran.stderr.splitlines())


def test_the_cache_leaves_a_folder_that_this_process_has_chosen(environment, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(("patience", "lines"), [(0.0, 1), (600.0, 0)])
def test_compiling_is_announced_once_if_it_takes_long(patience, lines, capsys):
    def slow(x, sign):
        for i in range(60):
            x = jnp.sin(x @ x) + sign * jnp.cos(x * (i + patience))  # a program of its own, which no cache has
        return x

    with compiling_is_announced("the test", patience):
        for sign in (1, -1):
            jax.jit(slow, static_argnums=1)(jnp.ones((8, 8)), sign)
    assert capsys.readouterr().err == "compiling the test, the first time only …\n" * lines
    # Nothing is printed later, or for programs outside the context.
    jax.jit(slow, static_argnums=1)(jnp.ones((8, 8)), 2)
    time.sleep(0.05)
    assert capsys.readouterr().err == ""
