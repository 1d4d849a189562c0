"""DARE with TIES, magnitude pruning, SVD, KnOTS and SSR-Merge's router, against peft and closed forms."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from merge_builders import flatten, make_adapter, make_params, same_bits

import merge
from blocklora_jax.errors import UserError
from merge.methods.dare_ties import dare_ties_rule
from merge.methods.knots import aligned_parts
from merge.methods.magnitude import magnitude_rule
from merge.methods.routing import routed
from merge.methods.task_vectors import layer_delta

LAYER = "unet/down_blocks_0/attentions_0/transformer_blocks_0/attn2/to_k"
WEIGHTS = [1.0, 0.5, -0.25]


@pytest.fixture(scope="module")
def adapters():
    return [make_adapter(name, partition=None) for name in ("ada", "ben", "rex")]


@pytest.fixture(scope="module")
def deltas():
    return np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)


def change_of(params, merged, layer: str = LAYER) -> np.ndarray:
    return flatten(merged)[f"{layer}/kernel"] - flatten(params)[f"{layer}/kernel"]


def test_magnitude_pruning_equals_peft(deltas):
    merge_utils, torch = pytest.importorskip("peft.utils.merge_utils"), pytest.importorskip("torch")
    expected = merge_utils.magnitude_prune([torch.from_numpy(x) for x in deltas], torch.tensor(WEIGHTS), 0.4).numpy()
    actual = magnitude_rule(jnp.asarray(deltas), jnp.asarray(WEIGHTS), 0.4)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
    assert 0 < (expected == 0).mean() < 1


def test_dare_with_ties_equals_peft_for_the_same_entries(deltas):
    merge_utils, torch = pytest.importorskip("peft.utils.merge_utils"), pytest.importorskip("torch")
    torch.manual_seed(0)
    expected = merge_utils.dare_ties([torch.from_numpy(x) for x in deltas], torch.tensor(WEIGHTS), 0.4).numpy()
    torch.manual_seed(0)
    kept = np.stack([torch.bernoulli(torch.full((7, 5), 0.4)).numpy() > 0 for _ in deltas])
    actual = dare_ties_rule(jnp.asarray(deltas), jnp.asarray(WEIGHTS), jnp.asarray(kept), 0.4)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_the_svd_equals_that_of_the_summed_changes(adapters):
    torch = pytest.importorskip("torch")
    params = make_params()
    total = sum(w * np.asarray(layer_delta(a, LAYER, (24, 16))) for w, a in zip(WEIGHTS, adapters, strict=True))
    # The code of peft's combination "svd": the first columns of U S, times the first rows of V.
    u, sizes, v = torch.linalg.svd(torch.from_numpy(np.array(total)))
    expected = (u[:, :3] @ torch.diag(sizes[:3]) @ v[:3]).numpy()
    actual = change_of(params, merge.svd(params, adapters, WEIGHTS, max_rank=3))
    # fp32; entries are about 5.
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_the_svd_of_the_default_rank_has_the_largest_rank_of_the_adapters(adapters):
    params = make_params()
    change = change_of(params, merge.svd(params, adapters))
    # Beside two singular values there is only the rounding of the kernel, with entries of about 1.
    sizes = np.linalg.svd(change, compute_uv=False)
    assert sizes[1] > 0.1
    assert sizes[2] < 1e-5


def test_knots_equals_ties_of_the_parts_of_a_whole_svd(adapters):
    merge_utils, torch = pytest.importorskip("peft.utils.merge_utils"), pytest.importorskip("torch")
    params = make_params()
    changes = [np.array(layer_delta(a, LAYER, (24, 16)), np.float64) for a in adapters]
    u, sizes, v = np.linalg.svd(np.concatenate(changes), full_matrices=False)
    kept = sizes > 1e-5
    parts = np.split((u * sizes)[:, kept], 3)
    merged = merge_utils.ties([torch.from_numpy(x) for x in parts], torch.tensor(WEIGHTS, dtype=torch.float64), 0.4)
    actual = change_of(params, merge.knots(params, adapters, WEIGHTS, density=0.4))
    np.testing.assert_allclose(actual, merged.numpy() @ v[kept], atol=1e-4)  # fp32; entries are about 5


def test_aligned_parts_give_the_changes_and_have_common_orthonormal_rows():
    rng = np.random.default_rng(1)
    pairs = [(rng.standard_normal((9, 2)), rng.standard_normal((2, 6))) for _ in range(2)]
    parts, common = aligned_parts(pairs)
    assert parts.shape == (2, 9, 4)
    for part, (a, b) in zip(parts, pairs, strict=True):
        np.testing.assert_allclose(part @ common, a @ b, atol=1e-5)
    np.testing.assert_allclose(common @ common.T, np.eye(4), atol=1e-6)


def inputs_of(adapters, rows: int) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    shapes = {f"{c}/{path}": n for c, group in adapters[0].shapes().items() for path, (n, _) in group.items()}
    return {layer: [rng.standard_normal((rows, n)) for _ in adapters] for layer, n in shapes.items()}


def test_the_router_is_the_least_squares_solution_over_all_signals(adapters):
    inputs = inputs_of(adapters, 40)
    grams = {layer: [x.T @ x for x in group] for layer, group in inputs.items()}
    params = make_params()
    actual = change_of(params, merge.route(params, adapters, grams, WEIGHTS, ridge=0.0))
    # As in the paper, from the signals themselves.
    downs, ups = zip(*(_factors(adapter) for adapter in adapters), strict=True)
    down, starts = np.concatenate(downs, axis=1), np.cumsum([0, *(a.shape[1] for a in downs)])
    signals = [x @ down for x in inputs[LAYER]]
    wanted = [np.zeros_like(z) for z in signals]
    for k, z in enumerate(signals):
        place = slice(starts[k], starts[k + 1])
        wanted[k][:, place] = z[:, place]
    router = np.linalg.lstsq(np.concatenate(signals), np.concatenate(wanted), rcond=None)[0]
    up = np.concatenate([w * b for w, b in zip(WEIGHTS, ups, strict=True)])
    np.testing.assert_allclose(actual, down @ router @ up, atol=1e-4)  # fp32; entries are about 5


def _factors(adapter) -> tuple[np.ndarray, np.ndarray]:
    component, _, path = LAYER.partition("/")
    a, b = adapter.lora[component][path]
    return np.asarray(a, np.float64) * adapter.info.scale, np.asarray(b, np.float64)


def test_the_router_is_exact_if_concepts_have_separate_inputs(adapters):
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0]
    grams = {layer: [np.eye(x.shape[1]) for x in group] for layer, group in inputs_of(adapters, 1).items()}
    grams[LAYER] = [basis[:, 8 * k : 8 * k + 2] @ basis[:, 8 * k : 8 * k + 2].T for k in range(3)]
    params = make_params()
    change = change_of(params, merge.route(params, adapters, grams, ridge=1e-9))
    for k, adapter in enumerate(adapters):
        x = basis[:, 8 * k : 8 * k + 2].T
        np.testing.assert_allclose(x @ change, x @ np.asarray(layer_delta(adapter, LAYER, (24, 16))), atol=1e-3)


def test_a_layer_of_one_adapter_alone_is_routed_unchanged(adapters):
    one = make_adapter("one", partition=None, layers={"unet": {LAYER.removeprefix("unet/"): (24, 16)}})
    [same] = routed([one], {LAYER: [np.eye(24)]})
    assert same_bits(same.lora["unet"][LAYER.removeprefix("unet/")].lora_A, one.lora["unet"][LAYER[5:]].lora_A)


@pytest.mark.parametrize("method", [merge.magnitude, merge.dare_ties, merge.knots])
def test_only_adapted_kernels_and_the_token_table_change(adapters, method):
    params = make_params()
    before, after = flatten(params), flatten(method(params, adapters))
    adapted = {f"{c}/{layer}/kernel" for c, layers in adapters[0].lora.items() for layer in layers}
    changed = {name for name in before if not same_bits(before[name], after[name])}
    assert changed == adapted | {"text_encoder/text_model/embeddings/token_embedding/embedding"}
    with pytest.raises(UserError, match=r"density must be in \(0, 1\]"):
        method(params, adapters, density=0.0)


@pytest.mark.parametrize("method", [merge.ties, merge.dare, merge.magnitude, merge.dare_ties, merge.knots, merge.svd])
def test_a_convolution_that_only_one_adapter_changes_is_merged(method):
    params = make_params()
    plain = make_adapter("ada", partition=None)
    changed = make_adapter("ben", partition=None, layers={"unet": {"conv_in": (36, 16)}})
    # With this density all of a change is kept.
    settings = {} if method is merge.svd else {"density": 1.0}
    merged = method(params, [plain, changed], **settings)
    a, b = changed.lora["unet"]["conv_in"]
    wanted = changed.info.scale * (a @ b).reshape(3, 3, 4, 16)
    # fp32, and in KnOTS a singular value decomposition, of changes of about 10.
    np.testing.assert_allclose(change_of(params, merged, "unet/conv_in"), wanted, atol=1e-4)
