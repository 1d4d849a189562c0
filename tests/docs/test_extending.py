"""The examples of docs/extending.md, run and added to the tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from blocklora_jax.diffusion.samplers.table import SAMPLERS, get_sampler
from blocklora_jax.layouts import dialects
from blocklora_jax.testing.tiny_model import SCHEDULE

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def example(name: str) -> dict:
    """The names that an example defines."""
    code = re.search(rf"```python {name}\n(.+?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)[1]
    names: dict = {"__name__": name}
    exec(code, names)
    return names


def test_the_sampler_of_the_page_is_found_by_name(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "euler_trailing", example("sampler")["euler_trailing"])
    plan = get_sampler("euler_trailing").init(SCHEDULE, 4)
    np.testing.assert_array_equal(plan.timesteps, [999, 749, 499, 249])


def test_the_dialect_of_the_page_names_a_layer(monkeypatch):
    name = "my_trainer.mid_block.attentions.0.proj_in"
    assert dialects.find_layer(name) is None
    monkeypatch.setattr(dialects, "DIALECTS", (*dialects.DIALECTS, example("dialect")["line"]))
    assert dialects.find_layer(name) == ("unet", "mid_block/attentions_0/proj_in")
