"""Conversion compared with least squares problems in another form."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

import merge
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.adapters.delta import kernel_change
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.diffusion.models import with_token_rows
from blocklora_jax.diffusion.text import encode_text
from blocklora_jax.errors import UserError
from blocklora_jax.probing.conversion import convert, fit_block
from blocklora_jax.probing.conversion_config import ConversionConfig
from blocklora_jax.probing.fit_prompts import trigger_prompts
from blocklora_jax.probing.probe import own_tokens, with_tokens
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter

WORDS = PromptWords(
    styles=("a photo of", "a drawing of"), subjects=("dog", "owl", "man"), scenes=("in the snow", "on the beach")
)
CONFIG = ConversionConfig(rank=8, prompts=16, random_prompts=16, chunk=16, steps=2)
LAYER = "down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"


def problem(seed: int = 0):
    rng = np.random.default_rng(seed)
    x, e, f = rng.standard_normal((50, 6)), rng.standard_normal((40, 6)), rng.standard_normal((6, 5))
    return x, e, x @ f


def loss(x, e, y, d, weight, ridge):
    metric = x.T @ x / len(x) + weight * e.T @ e / len(e)
    penalty = ridge * np.trace(metric) / len(metric) * np.sum(d**2)
    return np.sum((x @ d - y) ** 2) / len(x) + weight * np.sum((e @ d) ** 2) / len(e) + penalty


def fit(x, e, y, rank, weight, ridge):
    a, b = fit_block(x.T @ x / len(x), x.T @ y / len(x), e.T @ e / len(e), rank, weight, ridge)
    assert (a.shape, b.shape) == ((6, rank), (rank, 5))
    return a @ b


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
def test_full_rank_is_plain_least_squares_on_stacked_rows(weight):
    x, e, y = problem()
    ridge = 1e-3
    share = ridge * np.trace(x.T @ x / len(x) + weight * e.T @ e / len(e)) / 6
    rows = np.concatenate([x / np.sqrt(len(x)), np.sqrt(weight / len(e)) * e, np.sqrt(share) * np.eye(6)])
    targets = np.concatenate([y / np.sqrt(len(x)), np.zeros((len(e) + 6, 5))])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(fit(x, e, y, 8, weight, ridge), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_lower_rank_is_the_best_of_that_rank(rank):
    x, e, y = problem(1)
    best = fit(x, e, y, rank, 0.5, 1e-3)
    assert np.linalg.matrix_rank(best) == rank
    least = loss(x, e, y, best, 0.5, 1e-3)
    u, s, v = np.linalg.svd(fit(x, e, y, 5, 0.5, 1e-3))
    assert least < loss(x, e, y, (u[:, :rank] * s[:rank]) @ v[:rank], 0.5, 1e-3)
    # Alternating least squares from many starts reaches the same value, and nothing better.
    rng, found = np.random.default_rng(2), []
    metric = x.T @ x / len(x) + 0.5 * e.T @ e / len(e)
    metric += 1e-3 * np.trace(metric) / 6 * np.eye(6)
    for _ in range(5):
        a = rng.standard_normal((6, rank))
        for _ in range(200):
            b = np.linalg.solve(a.T @ metric @ a, a.T @ x.T @ y / len(x))
            a = np.linalg.solve(metric, x.T @ y / len(x)) @ b.T @ np.linalg.inv(b @ b.T)
        found.append(loss(x, e, y, a @ b, 0.5, 1e-3))
    np.testing.assert_allclose(min(found), least, rtol=1e-6)


@pytest.fixture(scope="module")
def external(tiny_sd):
    return random_adapter("ada", tiny_sd.params, slots=(), partition=None, layers="cross_kv", rank=3)


def states_of(sd, adapter, prompts):
    params = with_tokens(sd.params, own_tokens(sd, adapter))
    ids = sd.tokenizer.encode(prompts, token_counts([adapter]))
    return np.asarray(encode_text(with_token_rows(sd.models, params), params, ids).states).reshape(-1, 32)


def change(adapter):
    return np.asarray(kernel_change(adapter.lora["unet"][LAYER], adapter.info.scale))


def test_one_block_without_erasure_reproduces_the_lora_on_its_prompts(tiny_sd, external):
    config = dataclasses.replace(CONFIG, erase_weight=0.0, ridge=1e-8)
    fitted, fits = convert(tiny_sd, external, Partition(num_blocks=1), (0,), WORDS, config)
    states = states_of(tiny_sd, external, trigger_prompts(external, WORDS, config))
    wanted = states @ change(external)
    np.testing.assert_allclose(states @ change(fitted), wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())
    assert fits["unet attn2/to_k"].error < 2e-3


def test_a_converted_lora_owns_only_its_blocks_and_merges_losslessly(tiny_sd, external):
    partition = Partition(num_blocks=4)
    fitted, fits = convert(tiny_sd, external, partition, (2,), WORDS, CONFIG)
    assert (fitted.info.partition, fitted.info.slots, fitted.info.scale) == (partition, (2,), 1.0)
    assert fitted.info.base_family == tiny_sd.checkpoint.family
    pair, mask = fitted.lora["unet"][LAYER], fitted.masks()["unet"][LAYER]
    assert np.any(pair.lora_A)
    assert not np.any(pair.lora_A[mask.lora_A[:, 0] == 0])
    assert fitted.tokens is external.tokens
    other = random_adapter("bob", tiny_sd.params, slots=(1,), layers="cross_kv")
    base = tiny_sd.checkpoint.params
    merged = merge.compose(base, [fitted, other])
    taken = merge.remove(merged, base, [fitted, other], "bob")
    for name in ("k", "v"):
        one, alone = taken["unet"], merge.compose(base, [fitted])["unet"]
        for part in (*LAYER.removesuffix("k").split("/")[:-1], f"to_{name}", "kernel"):
            one, alone = one[part], alone[part]
        assert np.asarray(one).tobytes() == np.asarray(alone).tobytes()
    # The reported errors are those of the layers.
    states = states_of(tiny_sd, external, trigger_prompts(external, WORDS, CONFIG))
    keys = [path for path in external.lora["unet"] if path.endswith("to_k")]
    energies = np.zeros(2)
    for path in keys:
        kernel = tiny_sd.params["unet"]
        for part in (*path.split("/"), "kernel"):
            kernel = kernel[part]
        before, after = (np.asarray(kernel_change(a.lora["unet"][path], a.info.scale)) for a in (external, fitted))
        sums = [np.sum((states @ d) ** 2) for d in (after - before, before)]
        energies += np.array(sums) / np.sum((states @ kernel) ** 2)
    np.testing.assert_allclose(fits["unet attn2/to_k"].error, np.sqrt(energies[0] / energies[1]), rtol=1e-3)


def test_erasure_makes_the_output_small_for_random_prompts(tiny_sd, external):
    leakages = []
    for weight in (0.0, 10.0):
        config = dataclasses.replace(CONFIG, erase_weight=weight)
        fits = convert(tiny_sd, external, Partition(num_blocks=2), (1,), WORDS, config)[1]
        leakages.append(fits["unet attn2/to_v"].leak)
    assert leakages[1] < 0.8 * leakages[0]


def renamed(adapter, **fields):
    return dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, **fields))


def test_a_lora_that_cannot_be_converted_is_refused(tiny_sd, external):
    other = dataclasses.replace(external, lora={"unet": {LAYER.replace("to_k", "to_z"): external.lora["unet"][LAYER]}})
    cases = [
        (renamed(external, trigger="man"), (0,), "trigger of 'ada' is 'man', which is empty or occurs in random"),
        (renamed(external, trigger=""), (0,), "give words that call this concept"),
        (renamed(external, trigger="sks man"), (0,), "does not contain the adapter's token <ada>"),
        (renamed(external, trigger="<ADA> man"), (4,), "from 0 to 3"),
        (external, (4,), "from 0 to 3"),
        (other, (0,), "1 layers of 'ada' are not linear layers of this model"),
    ]
    for adapter, slots, message in cases:
        with pytest.raises(UserError, match=message):
            convert(tiny_sd, adapter, Partition(num_blocks=4), slots, WORDS, CONFIG)
    with pytest.raises(UserError, match="erase_weight is -1"):
        ConversionConfig(erase_weight=-1.0)
    with pytest.raises(UserError, match="rank is 0"):
        ConversionConfig(rank=0)


@pytest.mark.parametrize(
    ("kind", "trigger", "pattern"),
    [
        ("object", "<bo> dog", r"a (photo|drawing) of <bo> dog( and an? \w+)?( (in|on) the \w+)?"),
        ("scene", "<hut> room", r"a (photo|drawing) of (an? \w+( and an? \w+)? (in|in a|on a)|a) <hut> room"),
        ("style", "<ink> sketch", r"a <ink> sketch of an? \w+( and an? \w+)?( (in|on) the \w+)?"),
    ],
)
def test_a_concept_stands_in_a_prompt_where_its_kind_belongs(tiny_sd, kind, trigger, pattern):
    adapter = random_adapter("bo", tiny_sd.params, slots=(0,))
    adapter = dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, kind=kind, trigger=trigger))
    prompts = trigger_prompts(adapter, WORDS, dataclasses.replace(CONFIG, prompts=64))
    assert all(re.fullmatch(pattern, words) for words in prompts), prompts
    assert len(set(prompts)) > 8 and any(" and " in words for words in prompts)
