"""Every kind of LyCORIS: composed weights are those that LyCORIS merges, to 1e-6 of the largest weight."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from lycoris_files import KINDS, file_of, make
from safetensors.numpy import save_file

import merge
from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.testing.small_families import make_family

LAYERS = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.0.resnets.0.conv_shortcut",
]
FIRST = "lora_unet_" + LAYERS[0].replace(".", "_")


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return make_family("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def weights(sd1):
    return to_torch("unet", sd1.params["unet"])


def write(kind, weights, path, layers=LAYERS):
    """A file of this kind over the layers; what LyCORIS merges, by PyTorch's key."""
    parts, expected = {}, {}
    for seed, name in enumerate(layers):
        bias = weights.get(f"{name}.bias")
        made, merged, change = make(kind, weights[f"{name}.weight"], bias, seed)
        parts["lora_unet_" + name.replace(".", "_")] = made
        expected[f"{name}.weight"] = merged
        if change is not None:
            expected[f"{name}.bias"] = bias + change
    save_file(file_of(parts), path)
    return expected


def composed(sd1, adapter):
    return to_torch("unet", merge.compose(sd1.params, [adapter])["unet"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_lycoris_merges_is_composed(kind, sd1, weights, tmp_path):
    expected = write(kind, weights, tmp_path / "a.safetensors")
    adapter = Adapter.load(tmp_path / "a.safetensors", base=sd1.params)
    got = composed(sd1, adapter)
    for key, weight in weights.items():
        if key not in expected:
            np.testing.assert_array_equal(got[key], weight, err_msg=key)
            continue
        wanted = expected[key]
        # fp32; relative to the largest weight of the layer.
        np.testing.assert_allclose(got[key], wanted, atol=1e-6 * np.abs(wanted).max(), rtol=0, err_msg=key)
        assert np.abs(wanted - weight).max() > 1e-3, key


NEED_NO_BASE = ["LoCon", "LoHa", "LoHa with cores", "LoKr", "LoKr with a core", "LoKr of whole sides", "full"]


@pytest.mark.parametrize("kind", NEED_NO_BASE)
def test_kinds_whose_change_does_not_depend_on_the_base_are_read_without_it(kind, sd1, weights, tmp_path):
    write(kind, weights, tmp_path / "a.safetensors")
    with_base = Adapter.load(tmp_path / "a.safetensors", base=sd1.params)
    without = Adapter.load(tmp_path / "a.safetensors", base=lambda: pytest.fail("read")) if kind == "LoCon" else (
        Adapter.load(tmp_path / "a.safetensors")
    )  # fmt: skip
    for path, pair in with_base.lora["unet"].items():
        np.testing.assert_array_equal(without.lora["unet"][path].lora_A, pair.lora_A)
        np.testing.assert_array_equal(without.lora["unet"][path].lora_B, pair.lora_B)


@pytest.mark.parametrize("kind", ["DoRA of outputs", "decomposed LoHa", "GLoRA", "OFT", "BOFT", "IA3 of inputs"])
def test_kinds_that_depend_on_the_base_ask_for_it(kind, weights, tmp_path):
    write(kind, weights, tmp_path / "a.safetensors", LAYERS[:1])
    with pytest.raises(UserError, match=r"its change depends on the base model: .* \(--model, in Python base=…\)"):
        Adapter.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["LoKr of whole sides", "DoRA of outputs", "OFT", "full", "LoHa"])
def test_other_kinds_are_reduced_to_a_rank_with_the_error_of_the_best_approximation(kind, sd1, weights, tmp_path):
    expected = write(kind, weights, tmp_path / "a.safetensors")
    reduced = Adapter.load(tmp_path / "a.safetensors", base=sd1.params, max_rank=3)
    lost = total = 0.0
    for path, (a, b) in reduced.lora["unet"].items():
        assert a.shape[1] <= 3
        key = next(f"{name}.weight" for name in LAYERS if path == find(name))
        change = (expected[key].astype(np.float64) - weights[key]).reshape(len(expected[key]), -1)
        singular = np.linalg.svd(change, compute_uv=False)
        lost, total = lost + np.sum(singular[3:] ** 2), total + np.sum(singular**2)
        kernel = expected[key] - weights[key]
        kernel = kernel.T if kernel.ndim == 2 else kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
        left = np.linalg.norm(kernel - a @ b)
        # The best error, and fp32 rounding of changes near 1.
        assert left == pytest.approx(np.sum(singular[3:] ** 2) ** 0.5, abs=2e-5)
    source = json.loads(reduced.info.training)["source"]
    assert source["max_rank"] == 3
    assert source["relative_error"] == pytest.approx((lost / total) ** 0.5, abs=1e-5)
    assert source["reduced_layers"] == len(LAYERS)
    assert "relative_error" not in Adapter.load(tmp_path / "a.safetensors", base=sd1.params).info.training


def find(name):
    from blocklora_jax.layouts.dialects import find_layer

    return find_layer(f"unet.{name}")[1]


def test_an_ordinary_lora_is_not_reduced_and_records_nothing(weights, tmp_path):
    write("LoCon", weights, tmp_path / "a.safetensors")
    one, other = Adapter.load(tmp_path / "a.safetensors"), Adapter.load(tmp_path / "a.safetensors", max_rank=1)
    assert one.info == other.info
    assert one.info.training == "{}"


def test_norms_and_biases_are_changed(sd1, weights, tmp_path):
    rng = np.random.default_rng(0)
    changed = {
        "down_blocks.0.resnets.0.norm1": ("w_norm", "b_norm"),
        "down_blocks.0.attentions.0.norm": ("w_norm", "b_norm"),
        "down_blocks.0.attentions.0.transformer_blocks.0.norm2": ("diff", "diff_b"),
        "conv_norm_out": ("w_norm",),
        "up_blocks.0.resnets.0.conv1": (None, "diff_b"),
    }
    file, expected = {}, dict(weights)
    for name, parts in changed.items():
        for part, leaf in zip(parts, ("weight", "bias"), strict=False):
            if part:
                key = f"{name}.{leaf}"
                change = 0.1 * rng.standard_normal(weights[key].shape, np.float32)
                file[f"lora_unet_{name.replace('.', '_')}.{part}"] = change
                expected[key] = weights[key] + change
    save_file(file, tmp_path / "a.safetensors")
    adapter = Adapter.load(tmp_path / "a.safetensors")
    got = composed(sd1, adapter)
    for key, weight in expected.items():
        # The same fp32 sum.
        np.testing.assert_array_equal(got[key], weight, err_msg=key)
    adapter.save(tmp_path / "ours.safetensors")
    again = composed(sd1, Adapter.load(tmp_path / "ours.safetensors"))
    for key, weight in expected.items():
        np.testing.assert_array_equal(again[key], weight, err_msg=key)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"hada_w1_a": (8, 2), "hada_w1_b": (2, 8)}, "has only hada_w1_a, hada_w1_b"),
        ({"hada_w1_a": (8, 2), "hada_w1_b": (3, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)}, "is misshapen"),
        ({"hada_w1_a": (8, 0), "hada_w1_b": (0, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)}, "has nothing in it"),
        ({"lokr_w1": (2, 2)}, "has only lokr_w1"),
        ({"lokr_w1": (2, 2), "lokr_w1_a": (2, 1), "lokr_w2": (4, 4)}, "has lokr_w1 and also lokr_w1_a"),
        ({"alpha": ()}, "has only alpha"),
        ({"w_norm": (8,)}, "has only w_norm"),
        ({"rescale": (8, 1)}, "has only rescale"),
        ({"diff": (8, 8), "b_norm": (8,)}, "has b_norm too"),
        ({"lokr_w1": (30_000, 1), "lokr_w2": (30_000, 1)}, "would change a weight of shape [900000000, 1]"),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 3)}, "has the shape [8, 6], and in the base model [8, 8]"),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 4, 3, 3)}, "is misshapen"),
        ({"diff": (8,)}, "is misshapen"),
        ({"diff": (8, 8), "lora_up.weight": (8, 2)}, "is a LoRA and has diff too"),
        ({"oft_blocks": (3, 2, 2)}, "is misshapen"),
        ({"oft_blocks": (2, 2, 2, 2)}, "is misshapen"),
        ({"oft_R.weight": (2, 5)}, "is misshapen"),
        ({"a1.weight": (8, 2), "a2.weight": (2, 8), "b1.weight": (8, 2), "b2.weight": (3, 8)}, "has the shape [3, 2]"),
        ({"lora_up.weight": (8, 2), "lora_down.weight": (2, 8), "dora_scale": (7, 1)}, "is misshapen"),
        ({"diff": (8, 8), "scalar": (2,)}, "has a scalar of shape [2]"),
        ({"diff": (8, 8), "diff_b": (8,)}, "changes unet/down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q"),
    ],
)
def test_parts_that_do_not_fit_are_named_before_anything_is_computed(parts, message, sd1, tmp_path):
    file = {f"{FIRST}.{part}": np.ones(shape, np.float32) for part, shape in parts.items()}
    save_file(file, tmp_path / "a.safetensors")
    with pytest.raises(UserError) as error:
        Adapter.load(tmp_path / "a.safetensors", base=sd1.params)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_values_that_are_not_finite_are_named(sd1, tmp_path):
    save_file({f"{FIRST}.diff": np.full((8, 8), np.nan, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not finite"):
        Adapter.load(tmp_path / "a.safetensors")
    save_file({"lora_unet_conv_norm_out.w_norm": np.full(8, np.inf, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="conv_norm_out has values that are not finite"):
        Adapter.load(tmp_path / "a.safetensors")


def test_many_small_products_do_not_fill_the_memory(tmp_path, monkeypatch):
    from blocklora_jax.external_lora import layer_changes

    monkeypatch.setattr(layer_changes, "_MOST_NUMBERS", 1000)
    file = {f"{FIRST}.lokr_w1": np.ones((4, 4), np.float32), f"{FIRST}.lokr_w2": np.ones((8, 8), np.float32)}
    save_file(file, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="more numbers at full size than any adapter has: give a max_rank"):
        Adapter.load(tmp_path / "a.safetensors")
    assert Adapter.load(tmp_path / "a.safetensors", max_rank=2).info.rank == 2


def test_a_glora_in_the_order_of_early_versions_is_read(sd1, weights, tmp_path):
    # As ComfyUI reads it: b2 b1 + W a2 a1.
    rng = np.random.default_rng(0)
    weight = weights[f"{LAYERS[0]}.weight"]
    a1, b1 = (0.3 * rng.standard_normal((2, 8), np.float32) for _ in range(2))
    a2, b2 = (0.3 * rng.standard_normal((8, 2), np.float32) for _ in range(2))
    save_file({f"{FIRST}.{name}.weight": x for name, x in zip(("a1", "a2", "b1", "b2"), (a1, a2, b1, b2), strict=True)},
              tmp_path / "a.safetensors")  # fmt: skip
    got = composed(sd1, Adapter.load(tmp_path / "a.safetensors", base=sd1.params))
    expected = weight + b2 @ b1 + weight @ a2 @ a1
    # fp32 products of rank 2.
    np.testing.assert_allclose(got[f"{LAYERS[0]}.weight"], expected, atol=1e-6, rtol=0)


def test_norms_and_whole_changes_compose_under_jit_and_with_weights(sd1, tmp_path):
    rng, norm = np.random.default_rng(1), "unet/down_blocks_0/resnets_0/norm1/scale"
    change = rng.standard_normal((8, 8), np.float32)
    save_file({f"{FIRST}.diff": change, "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": change[0]},
              tmp_path / "a.safetensors")  # fmt: skip
    adapter = Adapter.load(tmp_path / "a.safetensors")
    plain = merge.compose(sd1.params, [adapter, adapter], [0.5, 0.25], allow_overlap=True)
    traced = jax.jit(lambda params, each: merge.compose(params, [each, each], [0.5, 0.25], allow_overlap=True))
    for (path, one), other in zip(
        flatten_params(plain).items(), jax.tree.leaves(traced(sd1.params, adapter)), strict=True
    ):
        # fp32: the same sums, which XLA may round otherwise.
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=path)
    before = flatten_params(sd1.params)
    np.testing.assert_allclose(flatten_params(plain)[norm], before[norm] + 0.75 * change[0], atol=1e-6)
    with pytest.raises(UserError, match="overlap"):
        merge.compose(sd1.params, [adapter, adapter])
