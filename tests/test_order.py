"""Which module may import which. LAYERS is the only place where the order is written down.

Every import counts, also within functions, under TYPE_CHECKING, and through `import_module`. Only the import of parent
packages by Python itself does not count: `import merge.compose` is an arrow to that file, not to `merge`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
# A layer may import from itself and from the layers before it. A module belongs to the longest name that matches it.
LAYERS = (
    "blocklora_jax.errors",
    "blocklora_jax.pocket.world",  # the drawing program: PIL and NumPy
    "blocklora_jax.io",
    "blocklora_jax.storage",  # folders that several machines share
    "blocklora_jax.checks",
    "blocklora_jax.command_line",
    "blocklora_jax.hub",
    "blocklora_jax.layouts",
    "blocklora_jax.models",
    "blocklora_jax.prompts",
    "blocklora_jax.external_lora",
    "blocklora_jax.adapters",
    "blocklora_jax.checkpoints",
    "blocklora_jax.registry",
    "blocklora_jax.library",
    "blocklora_jax.composing",
    "blocklora_jax.diffusion",
    "blocklora_jax.pipeline",
    "blocklora_jax.pocket",
    "blocklora_jax.probing",
    "blocklora_jax.notebook",
    "blocklora_jax.testing",
    "blocklora_jax.__init__",  # the public names
    "merge",
    "merge.cli",
    "merge.__main__",
    "train.engine",
    "train.base",
    "train.concept",
    "train",
    "train.app",  # the app in a browser: it teaches and merges
    "train.blocklora",
    "benchmarks",
)
PACKAGES = ("blocklora_jax", "merge", "train", "benchmarks")
LOOSE_FILES = {"__init__.py", "errors.py"}


class Arrow(NamedTuple):
    """One import: its file and line, and the full names of both modules."""

    place: str
    importer: str
    imported: str


def module_name(path: Path) -> str:
    """`a/b.py` is "a.b", `a/__init__.py` is "a.__init__"."""
    return ".".join(path.with_suffix("").parts)


def imported_names(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """(line, module, name within it or "") of every import in a file."""
    nodes = list(ast.walk(tree))
    by_text = any(isinstance(node, ast.alias) and node.name in ("import_module", "importlib") for node in nodes)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; write the full name"
            yield from ((node.lineno, str(node.module), alias.name) for alias in node.names)
        elif by_text and isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node.lineno, node.value, ""


def arrows(root: Path) -> tuple[set[str], list[Arrow]]:
    """All modules below `root`, and every import of one of them by another."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    modules = {module_name(path.relative_to(root)): path for path in files}

    def resolve(module: str, name: str) -> str | None:
        candidates = (f"{module}.{name}", f"{module}.{name}.__init__", module, f"{module}.__init__")
        return next((candidate for candidate in candidates if candidate in modules), None)

    found = []
    for importer, path in modules.items():
        for line, module, name in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            imported = resolve(module, name)
            if imported not in (None, importer):
                found.append(Arrow(f"{path.relative_to(root)}:{line}", importer, imported))
    return set(modules), found


def layer(module: str, layers: tuple[str, ...] = LAYERS) -> str | None:
    """The layer of a module; None if there is none."""
    return max((name for name in layers if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def back_arrows(found: list[Arrow], layers: tuple[str, ...] = LAYERS) -> list[str]:
    """A message for each import of a later layer, with advice."""
    wrong = []
    for arrow in found:
        here, there = layer(arrow.importer, layers), layer(arrow.imported, layers)
        if here and there and layers.index(here) < layers.index(there):
            wrong.append(
                f"{arrow.place}: {arrow.importer} imports {arrow.imported}, but the layer {there} comes after {here}. "
                "Pass the value in as an argument, or move what both need into an earlier layer. "
                "If the order itself is wrong, change LAYERS in tests/test_order.py."
            )
    return wrong


def circle(graph: Mapping[str, set[str]]) -> str:
    """One circle of a graph as "a -> b -> a"; "" if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def file_graph(found: list[Arrow]) -> dict[str, set[str]]:
    """{module: the modules that it imports}."""
    graph: dict[str, set[str]] = {}
    for arrow in found:
        graph.setdefault(arrow.importer, set()).add(arrow.imported)
    return graph


def folder_graphs(found: list[Arrow]) -> dict[str, dict[str, set[str]]]:
    """For every folder, the arrows between the files and folders in it; "" is the root."""
    graphs: dict[str, dict[str, set[str]]] = {}
    for arrow in found:
        one, other = arrow.importer.split("."), arrow.imported.split(".")
        depth = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        graph = graphs.setdefault(".".join(one[:depth]), {})
        graph.setdefault(".".join(one[: depth + 1]), set()).add(".".join(other[: depth + 1]))
    return graphs


@pytest.fixture(scope="module")
def tree() -> tuple[set[str], list[Arrow]]:
    return arrows(ROOT)


def test_every_module_has_a_layer(tree):
    lost = sorted(module for module in tree[0] if layer(module) is None)
    assert not lost, f"add the folder of {', '.join(lost)} to LAYERS in tests/test_order.py"


def test_no_module_imports_from_a_later_layer(tree):
    wrong = back_arrows(tree[1])
    assert not wrong, "\n".join([f"{len(wrong)} back arrows:", *wrong])


def test_files_do_not_import_each_other_in_a_circle(tree):
    assert not (found := circle(file_graph(tree[1]))), (
        f"a circle of files: {found}. Move what they share into a file that imports none of them."
    )


def test_folders_do_not_import_each_other_in_a_circle(tree):
    for folder, graph in folder_graphs(tree[1]).items():
        assert not (found := circle(graph)), (
            f"a circle in {folder or 'the root'}: {found}. Move a file to the folder that it serves, or what both "
            "need to one that comes before them."
        )


def test_the_root_of_the_library_holds_only_its_errors():
    loose = {path.name for path in (ROOT / "blocklora_jax").glob("*.py")} - LOOSE_FILES
    assert not loose, f"move {', '.join(sorted(loose))} into a folder of blocklora_jax"


def test_training_imports_only_compose_from_merging(tree):
    # The app is above both. It is in this folder because only `train` may import `merge`.
    taken = {
        arrow.imported for arrow in tree[1]
        if arrow.importer.startswith("train.") and layer(arrow.importer) != "train.app"
    }  # fmt: skip
    assert {module for module in taken if module.startswith("merge.")} <= {"merge.compose"}


EXAMPLE = {
    "merge/__init__.py": "",
    "merge/one.py": "def late():\n    from merge import two\n",
    "merge/two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import train.three\n",
    "train/three.py": 'from importlib import import_module\nLATE = import_module("merge.one")\n',
}


def test_late_imports_are_seen(tmp_path):
    for name, text in EXAMPLE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    modules, found = arrows(tmp_path)
    assert modules == {"merge.__init__", "merge.one", "merge.two", "train.three"}
    [wrong] = back_arrows(found)
    assert wrong.startswith("merge/two.py:3: merge.two imports train.three, but the layer train comes after merge. ")
    round_trip = [*circle(file_graph(found)).split(" -> ")]
    assert len(round_trip) == 4
    assert set(pairwise(round_trip)) == {
        ("merge.one", "merge.two"), ("merge.two", "train.three"), ("train.three", "merge.one"),
    }  # fmt: skip
    assert set(circle(folder_graphs(found)[""]).split(" -> ")) == {"merge", "train"}


def test_a_module_outside_the_list_has_no_layer():
    assert layer("blocklora_jax.io.atomic") == "blocklora_jax.io"
    assert layer("blocklora_jax.pocket.world.pen") == "blocklora_jax.pocket.world"
    assert layer("blocklora_jax.misc.tools") is None
