"""The benchmark of memory: its programs can be lowered, and a program that needs too much fails it."""

from __future__ import annotations

import jax
import pytest

from benchmarks.memory import __main__ as command
from benchmarks.memory.full_size import FullSize
from blocklora_jax.testing.tiny_model import tiny_models, tiny_params


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("task", ["fit", "convert", "check"])
def test_a_probe_is_lowered_from_shapes(task, family):
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tiny_params(family=family))
    lowered = command.PROBES[task](FullSize(tiny_models(family=family), params, 16), None)
    latents = lowered.args_info[0][4]
    # As many prompts at once as a command observes by default: the tiny model needs little for each.
    assert latents.shape == (8 if task == "check" else 16, 8, 8, 4)


@pytest.mark.parametrize(
    ("family", "token"),
    [("sd1", {"text_encoder": (1, 32)}), ("sdxl", {"text_encoder": (1, 32), "text_encoder_2": (1, 24)})],
)
def test_the_tuning_of_a_token_is_lowered_from_shapes(family, token):
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tiny_params(family=family))
    lowered = command.PROBES["tune"](FullSize(tiny_models(family=family), params, 16), None)
    assert {part: rows.shape for part, rows in lowered.out_info.items()} == token


def row(task: str, results: int, temporaries: int) -> dict[str, object]:
    return {"task": task, "arguments": 9999, "results": results, "temporaries": temporaries}


@pytest.mark.parametrize(
    ("rows", "code", "line"),
    [
        ([row("training", 99, 1500), row("fit", 1200, 1000)], 0, ""),
        ([row("training", 99, 1500), row("fit", 1200, 1300)], 1, "error: fit needs 2500 MiB beside its arguments"),
        ([row("training", 99, 1700), row("fit", 1, 1)], 1, "error: training needs 1700 MiB"),
    ],
)
def test_a_program_that_needs_too_much_fails_the_quick_form(rows, code, line, monkeypatch, capsys):
    monkeypatch.setattr(command, "QUICK", {"training": 1600, "fit": 2400})
    monkeypatch.setattr(command, "measure_all", lambda options, name: iter(rows))
    assert command.check_quickly() == code
    assert capsys.readouterr().err.startswith(line)
