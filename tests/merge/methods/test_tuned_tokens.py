"""Tuned tokens, compared with the outputs of every layer computed here, and what must stay as it was."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import trigger_prompts
from blocklora_jax.prompts.padding import KEPT, crop_padding
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter

NAMES = ("ada", "bob")
WORDS = PromptWords(styles=("a photo of", "art of"), subjects=("dog", "cat"), scenes=("on a bed",))


def pair_of(sd, slots=(0, 1), **changes):
    """Two adapters, with tokens like those of ordinary words."""
    settings = {"layers": "cross_kv", "size": 0.2} | changes
    found = [
        random_adapter(name, sd.params, slots=(slot,), **settings) for name, slot in zip(NAMES, slots, strict=True)
    ]
    spread = {
        field: float(np.std(token_table(sd.params, part)))
        for field, part in (("tokens", "text_encoder"), ("tokens_2", "text_encoder_2"))
        if part in sd.params
    }
    return [
        dataclasses.replace(own, **{f: {name: s * x for name, x in getattr(own, f).items()} for f, s in spread.items()})
        for own in found
    ]


def features_of(sd, adapter):
    """Text features [p, t, n] of the prompts that call a concept, with its token; and how often a position counts."""
    ids = sd.tokenizer.encode(trigger_prompts(adapter, WORDS, ConversionConfig()), token_counts([adapter]))
    length = min(ids.shape[-1], crop_padding(ids).shape[-1])
    params = merge.compose(sd.params, [dataclasses.replace(adapter, lora={})], check_base=False)
    text = encode_text(with_token_rows(sd.models, params), params, ids[..., :length])
    counted = np.ones(length)
    counted[-KEPT:] += (ids.shape[-1] - length) / KEPT
    return np.asarray(text.states, np.float64), counted


def kernels_of(params):
    flat = flatten_params(params["unet"])
    return {
        path: np.asarray(leaf, np.float64) for path, leaf in flat.items() if re.search(r"attn2/to_[kv]/kernel$", path)
    }


def size_of(rows, counted):
    return (np.square(rows).sum(-1) * counted).sum()


def errors_of(sd, adapters, tuned, weights):
    """For each concept, the difference of all layers' outputs over its own output. Layers in units of the base's."""
    base, merged = kernels_of(sd.params), kernels_of(merge.compose(sd.params, adapters, weights, allow_overlap=True))
    before = [features_of(sd, adapter) for adapter in adapters]
    units = {
        path: np.mean([size_of(x @ kernel, counted) / counted.sum() / len(x) for x, counted in before])
        for path, kernel in base.items()
    }
    found = []
    for adapter, new, weight, (x, counted) in zip(adapters, tuned, weights, before, strict=True):
        now, _ = features_of(sd, new)
        alone = kernels_of(merge.compose(sd.params, [adapter], [weight]))
        error = sum(size_of(now @ merged[p] - x @ alone[p], counted) / units[p] for p in base)
        output = sum(size_of(x @ (alone[p] - base[p]), counted) / units[p] for p in base)
        found.append(math.sqrt(error / output))
    return found


@pytest.mark.parametrize("model", ["tiny_sd", "tiny_xl"])
def test_errors_are_those_of_the_layers_outputs_and_fall(model, request):
    sd, weights = request.getfixturevalue(model), (1.0, 0.7)
    adapters = pair_of(sd)
    tuned = merge.tune_tokens(sd, adapters, weights, words=WORDS)
    np.testing.assert_allclose(tuned.before, errors_of(sd, adapters, adapters, weights), rtol=2e-3)
    np.testing.assert_allclose(tuned.after, errors_of(sd, adapters, tuned.adapters, weights), rtol=2e-3)
    assert max(after / before for before, after in zip(tuned.before, tuned.after, strict=True)) < 0.99
    # Both text encoders of SDXL have another row.
    fields = ["tokens", "tokens_2"] if model == "tiny_xl" else ["tokens"]
    for field in fields:
        old, new = (next(iter(getattr(own, field).values())) for own in (adapters[0], tuned.adapters[0]))
        assert old.shape == new.shape and new.dtype == np.float32 and not np.array_equal(old, new)


def test_weights_stay_and_a_concept_can_be_removed(tiny_sd):
    adapters = pair_of(tiny_sd)
    tuned = merge.tune_tokens(tiny_sd, adapters, steps=2, words=WORDS).adapters
    plain, new = (kernels_of(merge.compose(tiny_sd.params, each)) for each in (adapters, tuned))
    assert all(np.array_equal(plain[path], new[path]) for path in plain)
    assert [own.info.slots for own in tuned] == [own.info.slots for own in adapters]
    merged = merge.compose(tiny_sd.params, tuned)
    removed = kernels_of(merge.remove(merged, tiny_sd.params, tuned, "ada"))
    alone = kernels_of(merge.compose(tiny_sd.params, [adapters[1]]))
    assert all(np.array_equal(removed[path], alone[path]) for path in alone)


def test_an_adapter_alone_has_nothing_to_tune(tiny_sd):
    adapter = pair_of(tiny_sd)[0]
    tuned = merge.tune_tokens(tiny_sd, [adapter], steps=5, words=WORDS)
    assert tuned.after[0] <= tuned.before[0] < 1e-3


def test_an_adapter_without_output_is_harmless(tiny_sd):
    adapters = pair_of(tiny_sd)
    tuned = merge.tune_tokens(tiny_sd, adapters, (1.0, 0.0), steps=5, words=WORDS)
    assert all(np.isfinite(next(iter(own.tokens.values()))).all() for own in tuned.adapters)
    assert np.isfinite([*tuned.before, *tuned.after]).all() and tuned.before[0] < 1e-3


def test_without_tokens_an_adapter_stays_as_it_is(tiny_sd):
    ada, bob = pair_of(tiny_sd)
    plain = dataclasses.replace(bob, tokens={}, info=dataclasses.replace(bob.info, trigger="sks man"))
    tuned = merge.tune_tokens(tiny_sd, [ada, plain], steps=2, words=WORDS)
    assert tuned.adapters[1] is plain and math.isnan(tuned.before[1]) and tuned.before[0] > 0
    with pytest.raises(UserError, match="none of the adapters has a token"):
        merge.tune_tokens(tiny_sd, [plain], words=WORDS)


def test_changes_of_text_encoders_are_refused(tiny_sd):
    adapters = pair_of(tiny_sd, layers="cross_kv+text_encoder")
    with pytest.raises(UserError, match="ada, bob change a text encoder"):
        merge.tune_tokens(tiny_sd, adapters, words=WORDS)


def test_equal_slots_are_refused_unless_allowed(tiny_sd):
    ada, bob = pair_of(tiny_sd, slots=(0, 0))
    with pytest.raises(UserError, match="slot"):
        merge.tune_tokens(tiny_sd, [ada, bob], words=WORDS)
    tuned = merge.tune_tokens(tiny_sd, [ada, bob], steps=10, words=WORDS, allow_overlap=True)
    assert tuned.after[0] < tuned.before[0]


def test_a_tuned_adapter_is_saved_with_what_it_was_tuned_with(tiny_sd, tmp_path):
    adapters = pair_of(tiny_sd)
    tuned = merge.tune_tokens(tiny_sd, adapters, steps=10, words=WORDS).adapters[0]
    tuned.save(tmp_path / "ada.safetensors")
    read = Adapter.load(tmp_path / "ada.safetensors")
    assert '"tuned_with": ["bob"]' in read.info.training
    np.testing.assert_array_equal(read.tokens["<ada>"], tuned.tokens["<ada>"])
