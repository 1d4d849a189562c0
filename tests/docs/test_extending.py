"""The examples of docs/extending.md, run and added to the tables."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.command_line.options import read_options
from blocklora_jax.diffusion.samplers.table import SAMPLERS, get_sampler
from blocklora_jax.io.tensor_file import open_tensors, save_tensors
from blocklora_jax.layouts import dialects
from blocklora_jax.layouts.families.table import FAMILIES, family_of_build
from blocklora_jax.layouts.kohya import any_kohya_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import SCHEDULE
from merge.cli.method_flags import options_of, refuse_others_flags
from merge.export.lora_file import export
from merge.methods.table import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def example(name: str) -> dict:
    """The names that an example defines."""
    code = re.search(rf"```python {name}\n(.+?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)[1]
    # The code gets its own module, because dataclasses look up types there.
    module = ModuleType(f"example_{name}")
    sys.modules[module.__name__] = module
    exec(code, vars(module))
    return vars(module)


def test_the_sampler_of_the_page_is_found_by_name(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "euler_trailing", example("sampler")["euler_trailing"])
    plan = get_sampler("euler_trailing").init(SCHEDULE, 4)
    np.testing.assert_array_equal(plan.timesteps, [999, 749, 499, 249])


def test_the_dialect_of_the_page_names_a_layer(monkeypatch):
    name = "my_trainer.mid_block.attentions.0.proj_in"
    assert dialects.find_layer(name) is None
    monkeypatch.setattr(dialects, "DIALECTS", (*dialects.DIALECTS, example("dialect")["line"]))
    assert dialects.find_layer(name) == ("unet", "mid_block/attentions_0/proj_in")


def test_the_merge_method_of_the_page_gets_flags_and_merges(monkeypatch, tiny_sd: StableDiffusion):
    method = example("method")["method"]
    monkeypatch.setitem(METHODS, "strongest", method)
    options = read_options(options_of("strongest"), ["a.safetensors", "--ridge", "0.01"])
    assert options.method_settings == method.settings(ridge=0.01)
    refuse_others_flags(["--ridge"], "strongest")
    adapters = [random_adapter(name, tiny_sd.params, slots=(0,), layers="cross_kv") for name in ("ada", "bob")]
    alone = [method.merge(tiny_sd, [adapter], None, method.settings()).params["unet"] for adapter in adapters]
    both = method.merge(tiny_sd, adapters, None, method.settings()).params["unet"]
    for base, one, other, merged in zip(*map(jax.tree.leaves, (tiny_sd.params["unet"], *alone, both)), strict=True):
        changes = np.stack([one - base, other - base])
        largest = np.take_along_axis(changes, np.abs(changes).argmax(0)[None], axis=0)[0]
        # Sums with the base are rounded once more here.
        np.testing.assert_allclose(merged - base, largest, atol=1e-6)


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


def test_a_model_of_the_family_of_the_page_is_told_from_similar_ones(wide):
    assert [family_of_build(False, False, width) for width in (1024, 1536)] == ["sd2", "wide"]
