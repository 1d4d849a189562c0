"""What a command line does with an error and with a warning."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from blocklora_jax.command import run
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
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    assert exit_of(error, capsys) == (code, line)


def test_success_says_nothing_and_leaves_nothing(capsys):
    usual = warnings.formatwarning
    run(lambda: None)
    assert warnings.formatwarning is usual
    assert capsys.readouterr().err == ""


def test_a_warning_is_one_line():
    code = "import warnings; from blocklora_jax.command import run; run(lambda: warnings.warn('be\\n careful'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "warning: be careful\n"


@pytest.mark.parametrize("code", [0, 2, 143])
def test_exit_codes_pass(code, capsys):
    assert exit_of(SystemExit(code), capsys) == (code, "")


def test_our_own_faults_keep_their_traceback():
    def main() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run(main)


def test_a_command_does_not_pass_on_transformers_advice_to_install_pytorch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from blocklora_jax.command import run\n"
        "run(lambda: __import__('transformers'))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
