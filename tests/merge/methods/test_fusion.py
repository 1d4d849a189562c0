"""Jointly fitted adapters: the least squares solution over the inputs of all concepts, and their files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from merge_builders import make_adapter

import merge
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.errors import UserError
from blocklora_jax.probing.crosstalk import ALL, measure_crosstalk
from blocklora_jax.probing.input_statistics import measure_inputs
from blocklora_jax.prompts.random_prompts import PromptWords
from blocklora_jax.testing.random_adapter import random_adapter
from merge.cli.main import main
from merge.methods.task_vectors import layer_delta

LAYER = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"
WORDS = PromptWords(styles=("a photo of",), subjects=("dog", "man"), scenes=("on the beach",))


@pytest.fixture(scope="module")
def adapters():
    return [make_adapter(name, partition=None) for name in ("ada", "ben", "rex")]


def inputs_of(adapters, rows: int, seed: int):
    """By layer, inputs X [rows, n] of every adapter, and ordinary inputs."""
    rng, found = np.random.default_rng(seed), {}
    for adapter in adapters:
        for component, layers in adapter.shapes().items():
            for path, (n, _) in layers.items():
                found[f"{component}/{path}"] = [rng.standard_normal((rows, n)) for _ in range(len(adapters) + 1)]
    return found


@pytest.mark.parametrize("erase_weight", [0.0, 0.3, 10.0])
def test_the_sum_is_the_least_squares_solution(adapters, erase_weight):
    inputs = inputs_of(adapters, 40, 1)
    grams = {layer: [x.T @ x for x in xs[:-1]] for layer, xs in inputs.items()}
    ordinary = {layer: xs[-1].T @ xs[-1] for layer, xs in inputs.items()}
    focused = merge.fit_to_inputs(adapters, grams, ordinary, erase_weight=erase_weight, ridge=0.0)
    for layer, xs in inputs.items():
        deltas = [np.asarray(layer_delta(a, layer, grams_shape(a, layer)), np.float64) for a in adapters]
        stacked = np.concatenate([*xs[:-1], erase_weight**0.5 * xs[-1]])
        wanted = np.concatenate([*(x @ d for x, d in zip(xs, deltas, strict=False)), 0 * xs[-1] @ deltas[0]])
        found = sum(np.asarray(layer_delta(a, layer, grams_shape(a, layer)), np.float64) for a in focused)
        np.testing.assert_allclose(found, np.linalg.lstsq(stacked, wanted, rcond=None)[0], atol=2e-5)


def test_at_full_strength_it_is_the_best_of_those_that_keep_every_output(adapters):
    inputs = inputs_of(adapters, 8, 1)
    grams = {layer: [x.T @ x for x in xs[:-1]] for layer, xs in inputs.items()}
    ordinary = {layer: xs[-1].T @ xs[-1] for layer, xs in inputs.items()}
    plain, strong = (
        merge.fit_to_inputs(adapters, grams, ordinary, erase_weight=0.1, keep_strength=keep) for keep in (False, True)
    )
    rng, shares = np.random.default_rng(3), []
    for layer in inputs:
        delta = lambda adapter, layer=layer: np.asarray(
            layer_delta(adapter, layer, grams_shape(adapter, layer)), np.float64
        )
        own, total = list(map(delta, adapters)), sum(map(delta, strong))
        along = [gram @ dw for gram, dw in zip(grams[layer], own, strict=True)]
        wholes = [np.sum(dw * direction) for dw, direction in zip(own, along, strict=True)]
        np.testing.assert_allclose([np.sum(total * direction) for direction in along], wholes, rtol=1e-4)
        shares += [np.sum(sum(map(delta, plain)) * direction) / w for direction, w in zip(along, wholes, strict=True)]
        # No change that keeps these outputs makes the error smaller: it has no slope along such a change.
        slope = 0.1 * ordinary[layer] @ total + sum(g @ (total - dw) for g, dw in zip(grams[layer], own, strict=True))
        change = rng.standard_normal(total.shape)
        basis, _ = np.linalg.qr(np.stack([direction.ravel() for direction in along], axis=1))
        change -= (basis @ (basis.T @ change.ravel())).reshape(change.shape)
        assert abs(np.sum(slope * change)) < 1e-3 * np.linalg.norm(slope) * np.linalg.norm(change)
    assert max(shares) < 0.95  # the plain fit makes all of them smaller


def grams_shape(adapter, layer) -> tuple[int, int]:
    component, _, path = layer.partition("/")
    return adapter.shapes()[component][path]


def test_only_the_down_projections_change_and_blocks_are_given_up(adapters):
    blocked = [make_adapter(name, slots=(slot,)) for slot, name in enumerate(("ada", "ben"))]
    inputs = inputs_of(blocked, 40, 2)
    grams = {layer: [x.T @ x for x in xs[:-1]] for layer, xs in inputs.items()}
    for before, after in zip(blocked, merge.fit_to_inputs(blocked, grams), strict=True):
        component, path = LAYER.split("/", 1)
        np.testing.assert_array_equal(after.lora[component][path].lora_B, before.lora[component][path].lora_B)
        assert np.abs(after.lora[component][path].lora_A - before.lora[component][path].lora_A).max() > 0.01
        assert (after.info.partition, after.info.slots) == (None, ())
        assert after.info.rank == before.info.rank and after.tokens is before.tokens


def test_matrices_that_do_not_fit_are_named(adapters):
    with pytest.raises(UserError, match=r"one matrix \[n, n\] of inputs for each adapter.*attn2/to_k"):
        merge.fit_to_inputs(adapters, {})
    wrong = {layer: [np.eye(3)] * 3 for layer in inputs_of(adapters, 1, 0)}
    with pytest.raises(UserError, match="one matrix"):
        merge.fit_to_inputs(adapters, wrong)


@pytest.fixture
def trained(tiny_sd):
    """Two adapters of the tiny model that disturb each other."""
    return [
        random_adapter(name, tiny_sd.params, slots=(), layers="cross_kv", partition=None) for name in ("ada", "rex")
    ]


def test_inputs_are_those_of_the_concepts_prompts(tiny_sd, trained):
    found = measure_inputs(tiny_sd, trained, WORDS)
    layers = {f"unet/{path}" for path in trained[0].lora["unet"]}
    assert set(found.grams) == set(found.ordinary) == layers
    for grams in (*found.grams.values(), [*found.ordinary.values()]):
        for gram in grams:
            np.testing.assert_allclose(gram, gram.T, atol=1e-6)
            assert np.trace(gram) == pytest.approx(1)
            assert np.linalg.eigvalsh(gram).min() > -1e-6
    # All layers that read text read the same inputs.
    assert len({id(grams[0]) for grams in found.grams.values()}) == 1


def test_fitted_adapters_disturb_each_other_less(tiny_sd, trained):
    before = measure_crosstalk(tiny_sd, trained)[ALL].others
    fused = merge.fit_jointly(tiny_sd, trained, words=WORDS)
    after = measure_crosstalk(tiny_sd, fused)[ALL].others
    # Some disturbance remains, because prompts of two concepts have most words in common.
    assert (after < 0.7 * before).all(), (before, after)
    params = merge.compose(tiny_sd.params, fused, allow_overlap=True)
    images = tiny_sd.generate(["a photo of <ada> man"], params=params, adapters=fused, steps=1, seed=0)
    assert images.dtype == np.uint8 and token_counts(fused) == token_counts(trained)


@pytest.fixture
def files(tiny_sd, trained, tmp_path, monkeypatch):
    """The trained adapters' files, for commands that find the tiny model."""
    monkeypatch.setattr("blocklora_jax.pipeline.StableDiffusion.from_pretrained", lambda *a, **k: tiny_sd)
    # Prompts of the usual words would be longer than the tiny model can read.
    monkeypatch.setattr("blocklora_jax.probing.input_statistics.words_for", lambda name: WORDS)
    for adapter in trained:
        adapter.save(tmp_path / adapter.name / "adapter.safetensors")
    return [str(tmp_path / adapter.name / "adapter.safetensors") for adapter in trained]


def test_files_are_fitted_and_written_as_files(files, tiny_sd, trained, tmp_path, capsys):
    main(["fit", *files, "--out", str(tmp_path / "fused")])
    assert "wrote" in capsys.readouterr().out
    written = [Adapter.load(tmp_path / "fused" / f"{adapter.name}.safetensors") for adapter in trained]
    expected = merge.fit_jointly(tiny_sd, trained)
    for found, want in zip(written, expected, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), dict(found.lora), dict(want.lora))
        assert found.info == want.info
    params = jax.tree.map(jnp.asarray, tiny_sd.params)
    merge.compose(params, written, allow_overlap=True)
    with pytest.raises(
        UserError, match=r"were fitted jointly and share weights: sum them with allow_overlap=True"
    ) as error:
        merge.compose(params, written)
    assert "merge fit" not in str(error.value)
    # An adapter that was not fitted with them is refused with this advice.
    with pytest.raises(UserError, match="python -m merge fit"):
        merge.compose(params, [written[0], trained[1]])


def test_files_are_fitted_with_attention(files, tiny_sd, trained, tmp_path, monkeypatch):
    def first_half(self, params, adapter, ids, seed, weight):
        length = ids.shape[-1]
        return np.tile(np.arange(length) < length // 2, (len(ids), 1)) / (length // 2)

    # The real attention is slow. tests/probing/test_text_attention.py compares it with diffusers.
    monkeypatch.setattr("blocklora_jax.probing.text_attention.TextAttention.__call__", first_half)
    main(["fit", *files, "--out", str(tmp_path / "fused"), "--attention"])
    plain = merge.fit_jointly(tiny_sd, trained)
    for adapter, even in zip(merge.fit_jointly(tiny_sd, trained, attention=True), plain, strict=True):
        found = Adapter.load(tmp_path / "fused" / f"{adapter.name}.safetensors")
        for path, pair in adapter.lora["unet"].items():
            np.testing.assert_allclose(found.lora["unet"][path].lora_A, pair.lora_A, atol=1e-6)
            assert np.abs(pair.lora_A - even.lora["unet"][path].lora_A).max() > 1e-4


def test_errors_are_reported_before_the_model_is_read(trained, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the model was read")

    monkeypatch.setattr("blocklora_jax.pipeline.StableDiffusion.from_pretrained", refuse)
    for adapter in trained:
        adapter.save(tmp_path / f"{adapter.name}.safetensors")
    files = [str(tmp_path / f"{adapter.name}.safetensors") for adapter in trained]
    for args, message in (
        ([files[0]], "two or more"),
        ([*files, "--lambda", "-1"], "--lambda must be at least 0"),
        ([files[0], files[0]], "<ada>"),
        ([*files, "--trigger", "sks dog"], "1 of --trigger for 2 files"),
        ([*files, "--kind", "scene"], "1 of --kind for 2 files"),
        (files, "choose another --out"),
    ):
        with pytest.raises(UserError, match=message):
            main(["fit", *args, "--out", str(tmp_path)])


def test_a_concept_whose_trigger_is_in_random_prompts_is_refused(files, tmp_path):
    with pytest.raises(UserError, match="trigger of 'ada' is 'dog', which is empty or occurs in random"):
        main(["fit", *files, "--out", str(tmp_path / "fused"), "--trigger", "dog", "<rex> man"])
    assert not (tmp_path / "fused").exists()


def test_flags_that_describe_the_files_change_the_fit_and_the_written_files(files, trained, tmp_path):
    written = {}
    for kinds in ([], ["--kind", "scene", "style"]):
        out = tmp_path / f"fused{len(kinds)}"
        main(["fit", *files, "--out", str(out), *kinds])
        written[len(kinds)] = [Adapter.load(out / f"{adapter.name}.safetensors") for adapter in trained]
    assert [adapter.info.kind for adapter in written[3]] == ["scene", "style"]
    # Other prompts give other inputs, and thus another fit.
    pairs = zip(
        *([p for group in a.lora.values() for p in group.values()] for a in (written[0][0], written[3][0])), strict=True
    )
    assert any(np.abs(before.lora_A - after.lora_A).max() > 1e-6 for before, after in pairs)
