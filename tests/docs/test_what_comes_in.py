"""The tables of docs/what_comes_in.md: every kind and every dialect of the code is in them, and the names are read."""

from __future__ import annotations

import re
from pathlib import Path

from blocklora_jax.external_lora.algorithms.table import ALGORITHMS
from blocklora_jax.layouts.dialects import DIALECTS, KOHYA, PEFT, find_layer, programs_of

PAGE = (Path(__file__).parents[2] / "docs" / "what_comes_in.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_kind_is_on_the_page_with_whether_it_needs_the_base():
    table = {cells[0]: cells[3] for cells in rows("Kinds")}
    for kind in ALGORITHMS:
        needs = [last for names, last in table.items() if re.search(rf"(^|, ){kind.name}(?![\w-])", names)]
        assert len(needs) == 1, kind.name
        assert ("yes" in needs[0]) if kind.needs_base else ("no" in needs[0]), kind.name


def test_every_dialect_is_on_the_page_with_a_name_that_is_read():
    table = rows("Dialects")
    for program, example in table:
        name = example.strip("`")
        assert find_layer(name), name
        if program in {dialect.program for dialect in DIALECTS}:
            assert programs_of([name]) == [program]
    assert {program for program, _ in table} >= {dialect.program for dialect in DIALECTS} | {KOHYA, PEFT}
