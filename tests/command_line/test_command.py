"""What a command line does with an error and with a warning."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import warnings

import pytest

from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError


def exit_of(error: BaseException | None, capsys) -> tuple[int, str]:
    def main() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such\n  thing: take another"), 2, "error: no such thing: take another\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (OSError(28, "No space left on device", "a.bin"), 1, "error: a.bin: No space left on device\n"),
        (OSError("odd"), 1, "error: system: odd\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    assert exit_of(error, capsys) == (code, line)


def test_success_prints_nothing_and_writes_no_file(capsys):
    usual = warnings.formatwarning
    run(lambda: None)
    assert warnings.formatwarning is usual
    assert capsys.readouterr().err == ""


def test_a_warning_is_one_line():
    code = (
        "import warnings; from blocklora_jax.command_line.runner import run; "
        "run(lambda: warnings.warn('be\\n careful'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "warning: be careful\n"


@pytest.mark.parametrize("code", [0, 2, 143])
def test_exit_codes_pass(code, capsys):
    assert exit_of(SystemExit(code), capsys) == (code, "")


def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, line = exit_of(KeyError("ours\x1b[31m"), capsys)
    assert code == 70
    assert line.count("\n") == 1
    assert "\x1b" not in line
    assert "unexpected error" in line
    assert "KeyError" in line
    assert "BLOCKLORA_DEBUG=1" in line
    (trace,) = tmp_path.iterdir()
    assert str(trace) in line
    assert trace.read_text().startswith("Traceback")


def test_debugging_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("BLOCKLORA_DEBUG", "1")
    assert "Traceback (most recent call last)" in exit_of(UserError("no such thing"), capsys)[1]


def test_text_from_a_file_is_printed_without_control_characters(capsys):
    assert exit_of(UserError("named 'a\x1b[2J\u202eb\x00'"), capsys) == (2, "error: named 'a\\x1b[2J\\u202eb\\x00'\n")


def run_interruptible(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that reacts to SIGINT as at a terminal. (A command in the background ignores it.)"""
    usual = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=usual)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from blocklora_jax.command_line.runner import run
from blocklora_jax.io.atomic import open_atomic

def main():
    with open_atomic(Path(sys.argv[1]) / "a.bin") as file:
        file.write(b"half")
        os.kill(os.getpid(), int(sys.argv[2]))

run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_one_line_and_nothing_half_written(number, tmp_path):
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), str(int(number))]
    ended = run_interruptible(program)
    assert ended.returncode == 128 + number
    assert ended.stderr in ("error: interrupted\n", "error: stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_in_the_first_imports_ends_a_command_with_one_line():
    code = "import sys, os; sys.orig_argv = ['python', '-m', 'train.concept']; import train; os.kill(os.getpid(), 2)"
    ended = run_interruptible([sys.executable, "-c", code])
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")


def test_a_program_that_imports_us_keeps_its_own_handling_of_signals():
    code = "import signal, merge, train; print(signal.getsignal(2) is signal.default_int_handler)"
    assert run_interruptible([sys.executable, "-c", code]).stdout == "True\n"


def test_a_command_does_not_pass_on_transformers_advice_to_install_pytorch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from blocklora_jax.command_line.runner import run\n"
        "run(lambda: __import__('transformers'))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
