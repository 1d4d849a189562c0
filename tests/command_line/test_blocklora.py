"""The console command `blocklora`: its list of commands, its messages, and that it works beside a user's own files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from blocklora_jax.command_line.commands import BROWSER, COMMANDS, MERGING, TRAINING
from blocklora_jax.command_line.program import as_called, called_as
from blocklora_jax.command_line.renamed import RENAMED
from blocklora_jax.testing.random_adapter import random_adapter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """A user's folder with files and a package that have the same names as ours. Each fails when it is imported."""
    for name in ("train.py", "merge.py", "benchmarks.py", "blocklora_jax.py"):
        (tmp_path / name).write_text("raise SystemExit('the file of the user was imported')")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").write_text("raise SystemExit('the package of the user was imported')")
    return tmp_path


def blocklora(folder: Path, *args: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` as its script does: files in the current folder cannot be imported (-P)."""
    code = f"import sys; from train.blocklora import main; sys.argv[0] = 'blocklora'; {more or 'main()'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    program = [sys.executable, "-P", "-c", code, *args]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_without_arguments_it_lists_every_command_and_does_not_load_jax(args, folder):
    heavy = "import atexit; atexit.register(lambda: print([m for m in ('jax', 'numpy', 'tyro') if m in sys.modules]))"
    ran = blocklora(folder, *args, more=f"{heavy}; main()")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert lines[-1] == ["[]"]
    for command in COMMANDS:
        assert [command.name, *command.help.split()] in lines


def test_every_command_can_be_loaded_and_is_where_its_group_says():
    for command in COMMANDS:
        assert callable(command.load())
    assert {command.target.partition(".")[0] for command in MERGING} == {"merge"}
    assert {command.target.partition(".")[0] for command in (*TRAINING, *BROWSER)} == {"train"}
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


def test_an_unknown_command_is_one_line_with_the_nearest_known_one(folder):
    ran = blocklora(folder, "trian")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: unknown command 'trian': choose train, train-many, ")
    assert "did you mean 'train'?" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_command_works_beside_the_files_of_the_user(folder, tiny_sd):
    random_adapter("ada", tiny_sd.params, slots=(0,), layers="cross_kv").save(folder / "ada.safetensors")
    ran = blocklora(folder, "info", "ada.safetensors")
    assert ran.stderr == ""
    assert "ada (object, class noun 'man')" in ran.stdout


@pytest.mark.parametrize(
    ("args", "usage"),
    [
        (["train"], "usage: blocklora train "),
        (["merge", "--method", "ties"], "usage: blocklora merge "),
        (["registry", "add"], "usage: blocklora registry add "),
    ],
)
def test_help_names_the_command_as_it_was_called(args, usage, folder):
    ran = blocklora(folder, *args, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(usage)
    assert "python -m" not in ran.stdout.partition("\n")[0]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["registry", "list", "shared.json"], "start one with `blocklora registry new shared.json`"),
        (["registry", "exprot"], "unknown command registry 'exprot'"),
        (["remove", ".", "ada", "--out", "x"], "is not a merged model of `blocklora merge … --save`"),
        (["train", "--config", "wrong.yaml"], "unknown setting 'rnk'; blocklora train --help lists all"),
    ],
)
def test_errors_name_commands_as_they_were_called(args, hint, folder):
    (folder / "wrong.yaml").write_text("rnk: 3")
    ran = blocklora(folder, *args)
    assert ran.returncode == 2
    assert hint in ran.stderr
    assert "python -m" not in ran.stderr and ran.stderr.count("\n") == 1


def test_warnings_and_descriptions_name_commands_as_they_were_called(folder):
    warned = (
        "import warnings, merge.cli.info as i; "
        "i.required = lambda files: warnings.warn('see python -m merge plan') or files; main()"
    )
    assert blocklora(folder, "info", "a.safetensors", more=warned).stderr.startswith("warning: see blocklora plan\n")
    shown = " ".join(blocklora(folder, "fit", "--help").stdout.replace("│", " ").split())
    assert "Merge all of them together: `blocklora merge OUT/*.safetensors --allow-overlap …`" in shown


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_works_and_names_the_new_one(old, new, folder):
    ran = blocklora(folder, old, "--help")
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"usage: blocklora {new} ")
    assert ran.stderr == f"note: `{old}` is now called `{new}`; the old name will be removed in version 0.3\n"


def test_an_error_is_one_line_and_writes_nothing(folder):
    before = sorted(folder.iterdir())
    ran = blocklora(folder, "check", "missing.safetensors", "--steps", "0")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "error: --steps must be at least 1, not 0\n"
    assert sorted(folder.iterdir()) == before


def test_an_unexpected_error_names_the_command(folder):
    broken = "import merge.cli.describe as d; d.describe = None; import merge.cli.info as i; i.required = None; main()"
    ran = blocklora(folder, "info", "a.safetensors", more=broken)
    assert ran.returncode == 70
    assert ran.stderr.startswith("error: unexpected error in blocklora info: TypeError")


def test_ctrl_c_in_the_first_imports_is_one_line():
    code = (
        "import sys, os; sys.orig_argv = ['python', '/usr/bin/blocklora', 'train']; import train; "
        "os.kill(os.getpid(), 2)"
    )
    usual = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, preexec_fn=usual)
    assert (ran.returncode, ran.stderr) == (130, "error: interrupted\n")


def test_programs_are_named_as_they_were_called():
    assert as_called("python -m merge check") == "python -m merge check"
    with called_as("check"):
        assert as_called("python -m merge check") == "blocklora check"
    with called_as("train-many"):
        assert as_called("python -m train.concepts") == "blocklora train-many"
        assert as_called("`python -m train.concept --help`") == "`blocklora train --help`"
        assert as_called("see python -m merge info.") == "see blocklora info."
        assert as_called("python -m merge fit.safetensors plan/a") == "blocklora merge fit.safetensors plan/a"
        # `blocklora` has no such command.
        assert as_called("python -m train.base --report") == "python -m train.base --report"


def test_an_unexpected_error_names_the_module_if_that_was_called(folder):
    code = (
        "import runpy, sys, merge.cli.info as i; i.required = None; sys.argv[1:] = ['info', 'a.safetensors']; "
        "runpy.run_module('merge', run_name='__main__', alter_sys=True)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 70
    assert ran.stderr.startswith("error: unexpected error in python -m merge: TypeError")


def test_the_wheel_has_the_command_the_configs_and_the_pocket_model(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    # Links, so that the build writes nothing into the checkout.
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "blocklora_jax", "train", "merge", "configs"):
        if (ROOT / name).exists():
            (source / name).symlink_to(ROOT / name)
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)],
        cwd=source, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        [entry_points] = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        assert "blocklora = train.blocklora:main" in file.read(entry_points).decode()
    assert {f"train/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= names
    weights = ROOT / "blocklora_jax" / "pocket" / "weights"
    assert {str(p.relative_to(ROOT)) for p in weights.rglob("*.safetensors")} <= names
    assert any(name.startswith("blocklora_jax/pocket/weights/") for name in names)
