"""The examples of docs/extending.md, run and added to the tables."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.samplers.table import SAMPLERS, get_sampler
from blocklora_jax.io.tensor_file import open_tensors, save_tensors
from blocklora_jax.layouts import dialects
from blocklora_jax.layouts.families.table import FAMILIES, family_of_build
from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.testing.tiny_model import SCHEDULE
from merge.export.lora_file import export

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


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setitem(FAMILIES, "wide", example("family")["WIDE"])
    any_kohya_table.cache_clear()
    yield
    any_kohya_table.cache_clear()


def test_a_lora_of_the_family_of_the_page_is_recognised_and_exported_under_its_names(wide, tmp_path):
    to_k = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    query = "lora_wide_te_text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {}
    for name, outputs in ((to_k, 1280), (query, 1536)):
        tensors[f"{name}.lora_down.weight"] = np.ones((4, 1536), np.float32)
        tensors[f"{name}.lora_up.weight"] = np.ones((outputs, 4), np.float32)
        tensors[f"{name}.alpha"] = np.float32(4)
    save_tensors(tmp_path / "trained.safetensors", tensors, {})
    lora = Adapter.load(tmp_path / "trained.safetensors")
    assert lora.info.base_family == "wide"
    path, *_ = export(lora, tmp_path / "exported.safetensors", "kohya", card=False)
    with open_tensors(path) as file:
        assert set(file.keys) == set(tensors)


def test_a_model_of_the_family_of_the_page_is_told_from_those_built_alike(wide):
    assert [family_of_build(False, False, width) for width in (1024, 1536)] == ["sd2", "wide"]
