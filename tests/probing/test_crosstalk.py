"""Crosstalk compared with its definition."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.probing.crosstalk import ALL, TEMPLATES, crosstalk, layer_type, measure_crosstalk
from blocklora_jax.probing.probe import own_tokens, with_tokens
from blocklora_jax.testing.random_adapter import random_adapter

PROMPTS = ("a photo of {}", "a drawing of {} in the snow")


def test_one_layer_is_the_ratio_of_norms():
    energies = np.array([[[4.0], [1.0], [9.0]], [[16.0], [4.0], [0.0]]])
    measured = crosstalk(energies, np.array([[2.0], [7.0]]), ["unet/attentions_0/to_k"])
    assert list(measured) == ["unet to_k"]
    np.testing.assert_allclose(measured["unet to_k"].pairs, [[1, 0.5], [2, 1]])
    np.testing.assert_allclose(measured["unet to_k"].others, [1.5, 0])


def test_layers_are_weighted_relative_to_the_output_of_the_base():
    # Two types. In the second layer, the output of the base is ten times as large, and so are the adapters' changes.
    layers = ["unet/up_blocks_0/attentions_1/to_k", "unet/up_blocks_0/attentions_1/to_v"]
    energies = np.array([[[1.0, 100.0], [1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 300.0], [0.0, 0.0]]])
    measured = crosstalk(energies, np.array([[1.0, 100.0], [1.0, 100.0]]), layers)
    assert set(measured) == {"unet to_k", "unet to_v", ALL}
    np.testing.assert_allclose(measured[ALL].pairs, [[1, np.sqrt(0.5)], [0, 1]])
    # A concept without any change on its own prompts in a layer: relative to it, everything else is infinite.
    assert np.isinf(measured["unet to_k"].pairs[1]).all()


def test_the_type_of_a_layer_is_its_role():
    names = {
        "unet/mid_block/attentions_0/proj_in": "unet proj_in",
        "unet/down_blocks_0/attentions_1/transformer_blocks_0/attn2/to_out_0": "unet attn2/to_out_0",
        "unet/up_blocks_1/attentions_2/transformer_blocks_0/ff/net_0/proj": "unet ff/net_0/proj",
        "text_encoder_2/text_model/encoder/layers/11/self_attn/q_proj": "text_encoder_2 self_attn/q_proj",
    }
    assert {name: layer_type(name) for name in names} == names


@pytest.fixture(scope="module")
def adapters(tiny_sd):
    return [
        random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv", partition=Partition(num_blocks=4),
                       size=size)
        for slot, (name, size) in enumerate((("ada", 0.5), ("bob", 0.2), ("cyd", 0.4)))
    ]  # fmt: skip


def test_text_layers_are_measured_on_the_text_of_own_prompts(tiny_sd, adapters):
    measured = measure_crosstalk(tiny_sd, adapters, PROMPTS)
    assert set(measured) == {"unet attn2/to_k", "unet attn2/to_v", ALL}
    for i, adapter in enumerate(adapters):
        params = with_tokens(tiny_sd.params, own_tokens(tiny_sd, adapter))
        ids = tiny_sd.tokenizer.encode([t.format(f"<{adapter.name}> man") for t in PROMPTS], token_counts([adapter]))
        states = np.asarray(encode_text(with_token_rows(tiny_sd.models, params), params, ids).states).reshape(-1, 32)
        sums = np.zeros(len(adapters) + 1)
        for layer in (p for p in adapter.lora["unet"] if p.endswith("to_k")):
            kernel = tiny_sd.params["unet"]
            for name in (*layer.split("/"), "kernel"):
                kernel = kernel[name]
            outputs = [states @ a.lora["unet"][layer].lora_A @ a.lora["unet"][layer].lora_B * 1.5 for a in adapters]
            rest = sum(output for j, output in enumerate(outputs) if j != i)
            sums += [np.sum(x**2) / np.sum((states @ kernel) ** 2) for x in (*outputs, rest)]
        expected = np.sqrt(sums / sums[i])
        np.testing.assert_allclose(measured["unet attn2/to_k"].pairs[i], expected[:-1], rtol=1e-4)
        np.testing.assert_allclose(measured["unet attn2/to_k"].others[i], expected[-1], rtol=1e-4)


# A prompt has a scene after "in" or "on", and a style at its beginning.
WHERE = {
    "person": r"(of |^)\{\}",
    "object": r"(of |^)\{\}",
    "scene": r"(in|on) (a )?\{\}$|of a \{\}$",
    "style": r"a \{\}( of a|$)",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_ordinary_prompts_have_the_concept_where_its_kind_belongs(tiny_sd, adapters, kind):
    called = [replace(adapter, info=replace(adapter.info, kind=kind)) for adapter in adapters]
    measured, asked = measure_crosstalk(tiny_sd, called), measure_crosstalk(tiny_sd, called, TEMPLATES[kind])
    np.testing.assert_array_equal(measured[ALL].pairs, asked[ALL].pairs)
    assert len(TEMPLATES[kind]) == 8
    assert all(re.search(WHERE[kind], template) for template in TEMPLATES[kind])


def test_braces_of_other_kinds_are_part_of_the_prompt(tiny_sd, adapters):
    measured = measure_crosstalk(tiny_sd, adapters, ["a {0} {}", "{} {x} {"])
    assert np.isfinite(measured[ALL].pairs).all()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"seed": 2**70}, {"steps": 10**12}])
def test_numbers_beyond_their_bounds_are_refused(tiny_sd, adapters, settings):
    with pytest.raises(UserError, match="must be at"):
        measure_crosstalk(tiny_sd, adapters, PROMPTS, **settings)


def test_adapters_that_are_not_finite_are_not_measured(tiny_sd, adapters):
    loud = replace(adapters[0], info=replace(adapters[0].info, alpha=float("inf")))
    with pytest.raises(UserError, match="'ada' has values that are not finite"):
        measure_crosstalk(tiny_sd, [loud, adapters[1]], PROMPTS)
