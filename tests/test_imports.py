"""Which installed packages are imported, and when: merging imports no Flax. test_order.py tests our own imports."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports, including imports within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_runtime_packages_are_the_declared_ones():
    allowed = {
        "jax", "flax", "optax", "orbax", "numpy", "PIL", "tyro", "tqdm", "yaml", "safetensors", "huggingface_hub",
        "transformers", "jaxtyping", "ml_dtypes", "pydantic", "filelock", "tensorboardX", "blocklora_jax", "train",
        "merge", "pillow_heif", "fsspec", "wandb", "IPython", "ipywidgets", "gradio", "starlette",
    }  # fmt: skip
    for package in ("blocklora_jax", "train", "merge"):
        for path in (ROOT / package).rglob("*.py"):
            assert top(imports_of(path)) - allowed - set(sys.stdlib_module_names) == set(), path


def test_the_drawing_program_needs_nothing_but_pil_and_numpy():
    for path in (ROOT / "blocklora_jax" / "pocket" / "world").rglob("*.py"):
        assert top(imports_of(path)) <= {"PIL", "numpy", "blocklora_jax", *sys.stdlib_module_names}, path


def loaded_by(statement: str, *names: str) -> list[str]:
    """Which of the modules `names` are loaded after `statement`, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*(n for n in {names!r} if n in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


COMMANDS_OF_TRAIN = (
    "import train.concept.__main__, train.concepts, train.basis, train.negative_tokens, train.base.__main__, "
    "train.app.__main__"
)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import merge; from blocklora_jax import Adapter; Adapter.load", ("flax", "torch", "transformers", "train")),
        ("import blocklora_jax", ("jax", "flax", "transformers")),
        (COMMANDS_OF_TRAIN, ("jax", "flax", "orbax", "transformers", "gradio")),
        ("import train.concept", ("torch", "diffusers", "transformers", "peft")),
    ],
)
def test_imports_stay_light(statement, absent):
    assert loaded_by(statement, *absent) == []


def test_heic_is_an_extra_that_is_loaded_only_for_such_files():
    assert loaded_by("import train.concept.images, train.concept.data", "pillow_heif") == []
