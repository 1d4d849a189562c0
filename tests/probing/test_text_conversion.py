"""Conversion into a slot of the text basis, compared with least squares on text features that are computed here."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from token_side_builders import BLOCKS, WORDS, make_basis

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import basis_digest
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import trigger_prompts
from blocklora_jax.probing.text_conversion import convert_to_slot
from blocklora_jax.probing.text_conversion_config import TextConversionConfig
from blocklora_jax.testing.random_adapter import random_adapter

QUICK = TextConversionConfig(rank=16, prompts=16, random_prompts=16, chunk=16, token_steps=0)


@pytest.fixture(scope="module")
def basis(tiny_sd):
    return make_basis(tiny_sd)


def in_basis(basis, blocks=BLOCKS):
    return Partition(num_blocks=blocks, basis=basis_digest(basis.directions), assignment="text")


def lora(sd, layers="cross_kv", **changes):
    """A LoRA without blocks."""
    adapter = random_adapter("ada", sd.params, slots=(), partition=None, layers=layers, size=0.2)
    return dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, **changes))


def text_of(sd, adapter, config=QUICK):
    """Text features of the prompts that call a concept, with its own tokens and text encoders, and the merged U-Net."""
    asked = ConversionConfig(prompts=config.prompts, seed=config.seed)
    ids = sd.tokenizer.encode(trigger_prompts(adapter, WORDS, asked), token_counts([adapter]))
    params = merge.compose(sd.params, [adapter], allow_overlap=True)
    states = encode_text(with_token_rows(sd.models, params), params, ids).states
    is_token = ids >= len(sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"])
    return np.asarray(states, np.float64), is_token, flatten_params(params["unet"])


def kernels_of(flat):
    """The weights of the layers that read text."""
    return {
        path: np.asarray(leaf, np.float64) for path, leaf in flat.items() if re.search("attn2/to_[kv]/kernel$", path)
    }


def test_every_direction_and_the_same_token_give_the_lora_itself(tiny_sd, basis):
    adapter = lora(tiny_sd)
    one = basis._replace(codewords={1: {"text_encoder": adapter.tokens["<ada>"][None]}})
    config = dataclasses.replace(QUICK, erase_weight=0.0, ridge=1e-6)
    converted, _ = convert_to_slot(tiny_sd, adapter, in_basis(one, 1), (0,), one, WORDS, config)
    np.testing.assert_allclose(converted.tokens["<ada>"], adapter.tokens["<ada>"], rtol=1e-6)
    states, _, _ = text_of(tiny_sd, adapter)
    for path, pair in adapter.lora["unet"].items():
        wanted = states @ (pair.lora_A * adapter.info.scale @ pair.lora_B)
        given = states @ (converted.lora["unet"][path].lora_A @ converted.lora["unet"][path].lora_B)
        # Positions before the token do not count.
        error = np.abs(given - wanted)[:, -1].max()
        assert error < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("layers", ["cross_kv", "attention+text_encoder"])
def test_the_merged_model_has_the_error_that_is_reported(tiny_sd, basis, layers):
    adapter = lora(tiny_sd, layers)
    converted, fits = convert_to_slot(tiny_sd, adapter, in_basis(basis), (2,), basis, WORDS, QUICK)
    (before, _, with_lora), (after, is_token, with_result) = text_of(tiny_sd, adapter), text_of(tiny_sd, converted)
    counted, base = np.cumsum(is_token, 1) > 0, kernels_of(flatten_params(tiny_sd.params["unet"]))
    ids = tiny_sd.tokenizer.encode(
        trigger_prompts(converted, WORDS, ConversionConfig(prompts=16)), token_counts([converted])
    )
    end = np.flatnonzero((ids != ids[:, -1:]).any(0)).max() + 6
    counted[:, end:] = False
    errors, own = 0.0, 0.0
    for path, new in kernels_of(with_result).items():
        old, weight, x, y = kernels_of(with_lora)[path], base[path], before[counted], after[counted]
        energy = np.square(x @ weight).sum()
        errors += np.square(x @ old - y @ new).sum() / energy
        own += np.square(x @ (old - weight)).sum() / energy
    assert fits["cross_kv"].error == pytest.approx(np.sqrt(errors / own), rel=2e-3)


def test_the_result_lies_in_the_slot_and_has_a_token(tiny_sd, basis):
    adapter = dataclasses.replace(lora(tiny_sd, trigger="sks man", class_noun="man"), tokens={})
    converted, _ = convert_to_slot(tiny_sd, adapter, in_basis(basis), (1, 3), basis, WORDS, QUICK)
    vectors = len(tiny_sd.tokenizer.pieces("sks", {})[0].ids)
    assert converted.info.trigger == "<ada> man" and converted.tokens["<ada>"].shape[0] == vectors
    others = np.setdiff1d(np.arange(len(basis.directions)), in_basis(basis).directions("", 32, (1, 3)))
    for pair in converted.lora["unet"].values():
        assert np.abs(basis.directions[:, others].T @ pair.lora_A).max() < 1e-5 * np.abs(pair.lora_A).max()
    merge.compose(tiny_sd.params, [converted])
    assert json.loads(converted.info.training)["refit"]["token_steps"] == 0


def test_training_the_token_lowers_error_and_leakage(tiny_sd, basis):
    adapter = lora(tiny_sd)
    losses = []
    for steps in (0, 40):
        config = dataclasses.replace(QUICK, token_steps=steps, token_side=0.0)
        _, fits = convert_to_slot(tiny_sd, adapter, in_basis(basis), (0,), basis, WORDS, config)
        losses.append(fits["cross_kv"].error ** 2)
    assert losses[1] < 0.9 * losses[0]


def test_sdxl_gets_a_token_for_each_text_encoder(tiny_xl):
    basis = make_basis(tiny_xl)
    config = dataclasses.replace(QUICK, token_steps=1)
    converted, _ = convert_to_slot(tiny_xl, lora(tiny_xl), in_basis(basis), (0,), basis, WORDS, config)
    assert converted.tokens["<ada>"].shape[0] == converted.tokens_2["<ada>"].shape[0] == 2
    assert isinstance(converted, Adapter) and merge.compose(tiny_xl.params, [converted])


def test_what_cannot_be_converted_is_named(tiny_sd, basis):
    turned = basis._replace(directions=basis.directions[:, ::-1])
    with pytest.raises(UserError, match="not those of this basis"):
        convert_to_slot(tiny_sd, lora(tiny_sd), in_basis(basis), (0,), turned, WORDS, QUICK)
    with pytest.raises(UserError, match=r"has 22 positions before its class noun.* 1 to 16: .* --trigger"):
        long = lora(tiny_sd, trigger=" ".join("abcdefghijklmnopqrstuv"))
        convert_to_slot(tiny_sd, dataclasses.replace(long, tokens={}), in_basis(basis), (0,), basis, WORDS, QUICK)
    with pytest.raises(UserError, match="slots"):
        convert_to_slot(tiny_sd, lora(tiny_sd), in_basis(basis), (BLOCKS,), basis, WORDS, QUICK)
    with pytest.raises(UserError, match="token_steps must be at least 0"):
        TextConversionConfig(token_steps=-1)
