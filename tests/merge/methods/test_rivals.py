"""The other merge methods, compared with peft on the same tensors and with closed forms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from merge_builders import flatten as flatten_objects
from merge_builders import make_adapter, make_params, same_bits

import merge
from blocklora_jax.errors import UserError
from merge.methods.dare import dare_rule
from merge.methods.task_vectors import layer_delta
from merge.methods.ties import ties_rule

LAYER = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"
WEIGHTS = [1.0, 0.5, -0.25]
METHODS = {
    "average": merge.average,
    "ties": merge.ties,
    "dare": merge.dare,
}


def flatten(params) -> dict[str, Any]:
    return dict(flatten_objects(params))


@pytest.fixture(scope="module")
def adapters():
    return [make_adapter(name, partition=None) for name in ("ada", "ben", "rex")]


@pytest.fixture(scope="module")
def deltas():
    return np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)


def torch_tensors(deltas):
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(delta) for delta in deltas], torch.tensor(WEIGHTS)


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_ties_equals_peft(deltas, density):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    tensors, weights = torch_tensors(deltas)
    expected = merge_utils.ties(tensors, weights, min(density, 0.9999999)).numpy()
    actual = ties_rule(jnp.asarray(deltas), jnp.asarray(WEIGHTS), min(density, 0.9999999))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected).max() > 0


def test_dare_equals_peft_for_the_same_entries(deltas):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    torch = pytest.importorskip("torch")
    tensors, weights = torch_tensors(deltas)
    torch.manual_seed(0)
    expected = merge_utils.dare_linear(tensors, weights, 0.4).numpy()
    torch.manual_seed(0)
    kept = np.stack([torch.bernoulli(torch.full((7, 5), 0.4)).numpy() > 0 for _ in tensors])
    actual = dare_rule(jnp.asarray(deltas), jnp.asarray(WEIGHTS), jnp.asarray(kept), 0.4)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    assert 0 < kept.mean() < 1


def test_dare_that_drops_nothing_is_the_weighted_sum(adapters):
    params = make_params()
    actual = flatten(merge.dare(params, adapters, WEIGHTS, density=1.0))
    expected = flatten(merge.compose(params, adapters, WEIGHTS, allow_overlap=True))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-5)


def test_the_average_is_the_mean_of_the_peft_task_vectors(adapters):
    merge_utils = pytest.importorskip("peft.utils.merge_utils")
    torch = pytest.importorskip("torch")
    params = make_params()
    deltas = [torch.from_numpy(np.array(layer_delta(a, LAYER, (24, 16)))) for a in adapters]
    expected = merge_utils.task_arithmetic(deltas, torch.full((3,), 1 / 3)).numpy()
    actual = flatten(merge.average(params, adapters))[f"{LAYER}/kernel"] - flatten(params)[f"{LAYER}/kernel"]
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_only_adapted_kernels_and_the_token_table_change(adapters, method):
    params = make_params()
    before, after = flatten(params), flatten(METHODS[method](params, adapters))
    adapted = {f"{c}/{layer}/kernel" for c, layers in adapters[0].lora.items() for layer in layers}
    changed = {name for name in before if not same_bits(before[name], after[name])}
    assert changed == adapted | {"text_encoder/text_model/embeddings/token_embedding/embedding"}


@pytest.mark.parametrize("density", [0.0, 1.5, -1.0])
@pytest.mark.parametrize("method", [merge.ties, merge.dare])
def test_a_density_outside_0_to_1_is_refused(adapters, method, density):
    with pytest.raises(UserError, match=r"density must be in \(0, 1\]"):
        method(make_params(), adapters, density=density)


def grams_of(adapters, inputs):
    layers = {f"{c}/{layer}": s for a in adapters[:1] for c, group in a.shapes().items() for layer, s in group.items()}
    return {name: [inputs(shape[0], k) for k in range(len(adapters))] for name, shape in layers.items()}


def test_gradient_fusion_is_exact_if_concepts_have_separate_inputs(adapters):
    # Each concept has eight of 24 directions, so all concepts can be fitted exactly at the same time.
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0]

    def inputs(width, k):
        part = basis[:width, 8 * k : 8 * k + 8] if width == 24 else np.zeros((width, 1))
        return (part @ part.T).astype(np.float32)

    params = make_params()
    fused = flatten(merge.gradient_fusion(params, adapters, grams_of(adapters, inputs), ridge=1e-9))
    change = fused[f"{LAYER}/kernel"] - flatten(params)[f"{LAYER}/kernel"]
    for k, adapter in enumerate(adapters):
        x = basis[:, 8 * k : 8 * k + 8].T
        np.testing.assert_allclose(x @ change, x @ np.asarray(layer_delta(adapter, LAYER, (24, 16))), atol=1e-4)


def test_gradient_fusion_names_the_layers_without_inputs(adapters):
    with pytest.raises(
        UserError, match=r"need, for every .* one matrix .* of inputs for each adapter.* 'unet/mid_block/"
    ):
        merge.gradient_fusion(make_params(), adapters, {})


def test_the_methods_work_on_jax_arrays_too(adapters):
    params = jax.tree.map(jnp.asarray, make_params())
    merged = merge.ties(params, adapters)
    assert isinstance(flatten(merged)[f"{LAYER}/kernel"], jax.Array)
