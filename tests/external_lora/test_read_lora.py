"""LoRA files of other programs: in every layout, composed weights are W + s B A. Other kinds of files are named."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_lora import DTYPES, change, kohya_file, random_lora, torch_weights

import merge
from blocklora_jax import Adapter
from blocklora_jax.adapters.apply import apply_adapted
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.torch_names import to_torch
from blocklora_jax.models.unet import UNet2DConditionModel
from blocklora_jax.testing.small_families import make_family

RESNET = "down_blocks.0.resnets.0.conv1"
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FC1 = "text_model.encoder.layers.0.mlp.fc1"


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return make_family("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return make_family("sdxl", tmp_path_factory.mktemp("sdxl"))


def assert_composed(params, adapter, expected):
    """Every weight is that of the base plus the expected change, in PyTorch's layout."""
    merged = merge.compose(params, [adapter])
    changed = 0
    for component in params:
        before, after = to_torch(component, params[component]), to_torch(component, merged[component])
        for key, weight in after.items():
            wanted = expected.get((component, key.removesuffix(".weight")))
            if wanted is None:
                np.testing.assert_array_equal(weight, before[key], err_msg=key)
                continue
            # fp32: a product of rank up to 4 with entries of 0.3, added to kernels of 0.1.
            np.testing.assert_allclose(weight, before[key] + wanted, atol=1e-6, rtol=0, err_msg=key)
            changed += np.abs(wanted).max() > 1e-2
    assert changed == len(expected)


def every_layer(checkpoint, rng, dtype=np.float32):
    """A pair for every layer, with different ranks: ({(component, PyTorch name): parts}, {…: alpha or None})."""
    layers, alphas = {}, {}
    for component in checkpoint.params:
        if component == "vae":
            continue
        for index, (key, weight) in enumerate(torch_weights(checkpoint.params, component).items()):
            name = (component, key.removesuffix(".weight"))
            layers[name] = random_lora(weight, 1 + index % 4, rng, dtype)
            # Every third layer has no alpha, which means that alpha equals the rank.
            alphas[name] = None if index % 3 == 0 else 0.5 * (1 + index % 5)
    return layers, alphas


def kohya_names(component, name):
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}[component]
    return prefix + name.replace(".", "_")


@pytest.mark.parametrize("dtype", DTYPES)
def test_kohya_file_of_all_layers_composes(sd1, tmp_path, dtype):
    layers, alphas = every_layer(sd1, np.random.default_rng(0), DTYPES[dtype])
    names = {name: kohya_names(*name) for name in layers}
    file = kohya_file(
        {names[name]: parts for name, parts in layers.items()},
        {names[name]: alpha for name, alpha in alphas.items() if alpha is not None},
    )
    save_file(file, tmp_path / "style.safetensors", metadata={"ss_sd_model_name": "base.safetensors"})
    adapter = Adapter.load(tmp_path / "style.safetensors")
    scales = {name: 1.0 if alpha is None else alpha / layers[name]["down"].shape[0] for name, alpha in alphas.items()}
    assert_composed(sd1.params, adapter, {name: change(parts, scales[name]) for name, parts in layers.items()})
    assert (adapter.name, adapter.info.origin, adapter.info.partition) == ("style", "kohya", None)
    assert (adapter.info.base_name, adapter.info.base_family) == ("base.safetensors", "sd1")
    assert {pair.lora_A.shape[1] for pair in adapter.lora["unet"].values()} == {1, 2, 3, 4}


def test_peft_file_of_all_layers_composes_for_both_text_encoders(sdxl, tmp_path):
    layers, alphas = every_layer(sdxl, np.random.default_rng(1))
    file = {}
    for (component, name), parts in layers.items():
        file[f"{component}.{name}.lora_A.weight"] = parts["down"]
        file[f"{component}.{name}.lora_B.weight"] = parts["up"]
    save_file(file, tmp_path / "style.safetensors")
    adapter = Adapter.load(tmp_path / "style.safetensors")
    assert_composed(sdxl.params, adapter, {name: change(parts, 1.0) for name, parts in layers.items()})
    assert (adapter.info.origin, adapter.info.base_family) == ("diffusers", "sdxl")
    settings = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 3}, "use_rslora": False}
    flat = {f"{part}.{key}": value for part in ("unet", "text_encoder") for key, value in settings.items()}
    save_file(file, tmp_path / "more.safetensors", metadata={"lora_adapter_metadata": json.dumps(flat)})
    expected = {}
    for (component, name), parts in layers.items():
        alpha = 3 if name.endswith("attn1.to_q") else 8
        scale = 1.0 if component == "text_encoder_2" else alpha / parts["down"].shape[0]
        expected[component, name] = change(parts, scale)
    assert_composed(sdxl.params, Adapter.load(tmp_path / "more.safetensors"), expected)


def test_locon_with_a_core_composes(sd1, tmp_path):
    weight = torch_weights(sd1.params, "unet")[f"{RESNET}.weight"]
    parts = random_lora(weight, 3, np.random.default_rng(2), core=True)
    name = kohya_names("unet", RESNET)
    save_file(kohya_file({name: parts}, {name: 1.5}), tmp_path / "locon.safetensors")
    adapter = Adapter.load(tmp_path / "locon.safetensors")
    assert_composed(sd1.params, adapter, {("unet", RESNET): change(parts, 0.5)})


def test_the_interceptor_runs_convolutions_as_the_composed_weights_do(sd1, tmp_path):
    rng, weights = np.random.default_rng(3), torch_weights(sd1.params, "unet")
    names = [RESNET, "down_blocks.0.downsamplers.0.conv", "up_blocks.0.resnets.0.conv_shortcut", QUERY, "conv_in"]
    layers = {kohya_names("unet", name): random_lora(weights[f"{name}.weight"], 2, rng) for name in names}
    save_file(kohya_file(layers, {}), tmp_path / "conv.safetensors")
    adapter = Adapter.load(tmp_path / "conv.safetensors")
    model = UNet2DConditionModel(sd1.configs["unet"])
    sample, text = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((1, 8, 8, 4), (1, 5, 16)))
    inputs = (sample, jnp.array([3]), text)
    adapted, _ = apply_adapted(model, sd1.params["unet"], adapter.lora["unet"], adapter.info.scale, *inputs)
    merged = model.apply({"params": merge.compose(sd1.params, [adapter])["unet"]}, *inputs)
    plain = model.apply({"params": sd1.params["unet"]}, *inputs)
    # fp32; outputs of size 1.
    np.testing.assert_allclose(adapted, merged, atol=2e-5, rtol=0)
    assert np.abs(np.asarray(merged) - np.asarray(plain)).max() > 1e-2


@pytest.mark.parametrize(
    ("head", "tail", "name"),
    [
        (QUERY.replace(".to_q", ".processor.to_q"), "_lora.{}.weight", QUERY),
        (QUERY.replace(".to_q", ".processor.to_out"), "_lora.{}.weight", QUERY.replace("to_q", "to_out.0")),
        (QUERY, ".lora.{}.weight", QUERY),
    ],
)
def test_names_of_diffusers_before_peft_are_read(sd1, tmp_path, head, tail, name):
    parts = random_lora(np.zeros((8, 8)), 2, np.random.default_rng(4))
    save_file({f"unet.{head}{tail.format(role)}": parts[role] for role in parts}, tmp_path / "old.safetensors")
    assert_composed(sd1.params, Adapter.load(tmp_path / "old.safetensors"), {("unet", name): change(parts, 1.0)})


def test_a_file_of_peft_needs_its_settings(sd1, tmp_path):
    parts = random_lora(np.zeros((24, 16)), 4, np.random.default_rng(5))
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{FC1}.lora_{x}.weight": parts[y] for x, y in (("A", "down"), ("B", "up"))}, path)
    with pytest.raises(UserError, match="keeps lora_alpha in adapter_config.json beside it"):
        Adapter.load(path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "use_rslora": True}))
    assert_composed(sd1.params, Adapter.load(path), {("text_encoder", FC1): change(parts, 3.0)})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 6, "use_dora": True}))
    with pytest.raises(UserError, match="it is a DoRA"):
        Adapter.load(path)


def write_lora(path, name="lora_unet_" + QUERY.replace(".", "_"), seed=6):
    parts = random_lora(np.zeros((8, 8)), 2, np.random.default_rng(seed))
    save_file(kohya_file({name: parts}, {}), path)
    return Adapter.load(path)


def test_two_external_adapters_are_summed_only_on_request(sd1, tmp_path):
    one, other = write_lora(tmp_path / "one.safetensors"), write_lora(tmp_path / "other.safetensors", seed=7)
    with pytest.raises(UserError) as error:
        merge.compose(sd1.params, [one, other])
    assert "'one' and 'other' are LoRAs of another program, without blocks" in str(error.value)
    assert "merge convert" in str(error.value)
    assert "--allow-overlap" in str(error.value)
    merged = merge.compose(sd1.params, [one, other], [1.0, 0.5], allow_overlap=True)
    alone = [merge.compose(sd1.params, [adapter], [w]) for adapter, w in ((one, 1.0), (other, 0.5))]
    # fp32: the same three terms in another order.
    jax.tree.map(
        lambda w, x, y, z: np.testing.assert_allclose(w, x + y - z, atol=1e-6), merged["unet"], alone[0]["unet"],
        alone[1]["unet"], sd1.params["unet"],
    )  # fmt: skip


def test_an_external_adapter_is_saved_in_our_file_with_its_ranks(sd1, tmp_path):
    layers, _ = every_layer(sd1, np.random.default_rng(8))
    save_file(kohya_file({kohya_names(*name): x for name, x in layers.items()}, {}), tmp_path / "a.safetensors")
    adapter = Adapter.load(tmp_path / "a.safetensors")
    adapter.save(tmp_path / "ours.safetensors")
    again = Adapter.load(tmp_path / "ours.safetensors")
    assert again.info == adapter.info
    jax.tree.map(np.testing.assert_array_equal, again.lora, adapter.lora)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora_unet_x.dora_scale", "lora_unet_x.lora_up.weight"], "to a DoRA"),
        (["unet.x.lora_magnitude_vector"], "to a DoRA"),
        (["lora_unet_x.hada_w1_a"], "to a LoHa"),
        (["lora_unet_x.lokr_w1"], "to a LoKr"),
        (["lora_unet_x.oft_R.weight"], "to an OFT"),
        (["lora_unet_x.a1.weight", "lora_unet_x.b1.weight"], "to a GLoRA"),
        (["lora_unet_x.on_input", "lora_unet_x.weight"], "to an IA3"),
        (["unet.x.ia3_l"], "to an IA3"),
        (["lora_unet_x.diff"], "to a file of full weight differences"),
        (["lora_unet_x.w_norm"], "not a blocklora adapter"),
        (["unet.x.lora_embedding_A"], "LoRA of embedding tables"),
        (["unet.x.lora_A.bias"], "LoRA with biases"),
        (["unet.x.vera_lambda_d"], "is a VeRA"),
        (["bundle_emb.ada.string_to_param.*"], "not a blocklora adapter"),
        (["emb_params"], "is a textual-inversion embedding"),
        (["<ada>"], "is a textual-inversion embedding"),
        (["lora_unet_double_blocks_0_img_attn_proj.lora_up.weight"], "LoRA of Flux"),
        (["transformer.x.lora_A.weight"], "another transformer model"),
        (["model.diffusion_model.out.2.weight"], "is a whole model"),
        (["something.else"], "not a blocklora adapter"),
        (["lora_unet_x.lora_up.weight"], "not a blocklora adapter"),
    ],
)
def test_other_kinds_of_adapters_are_named(tmp_path, keys, message):
    save_file({key: np.zeros((2, 2), np.float32) for key in keys}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message) as error:
        Adapter.load(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)
    assert "LoRA and LoCon, LoHa, LoKr, GLoRA, OFT, BOFT, IA3, DoRA" in str(error.value)


NAME = "lora_unet_" + RESNET.replace(".", "_")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{NAME}.lora_up.weight": (8, 2, 1, 1)}, "has only up"),
        ({f"{NAME}.lora_up.weight": (8, 2), f"{NAME}.lora_down.weight": (3, 8, 3, 3)}, "is misshapen: down"),
        ({f"{NAME}.lora_up.weight": (8, 2), f"{NAME}.lora_down.weight": (2, 8)}, "is misshapen: down"),
        ({f"{NAME}.lora_up.weight": (8, 2), f"{NAME}.lora_down.weight": (2, 8, 3, 3), f"{NAME}.alpha": (2,)},
         "alpha of shape"),
        ({f"{NAME}.lora_up.weight": (8, 2), f"{NAME}.lora_down.weight": (2, 8, 3, 3), "x.alpha": ()},
         "1 tensors of no known"),
        (
            {f"{NAME}.lora_up.weight": (8, 2), f"{NAME}.lora_down.weight": (2, 8, 3, 3),
            f"unet.{RESNET}.lora_A.weight": (2, 8, 3, 3)},
            "under two names",
        ),
    ],
)  # fmt: skip
def test_incomplete_files_are_named(tmp_path, tensors, message):
    save_file({key: np.ones(shape, np.float32) for key, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message):
        Adapter.load(tmp_path / "x.safetensors")


def test_values_that_are_not_finite_are_refused(tmp_path):
    layers = {NAME: {"down": np.full((2, 8, 3, 3), np.nan, np.float32), "up": np.zeros((8, 2, 1, 1), np.float32)}}
    save_file(kohya_file(layers, {}), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not finite"):
        Adapter.load(tmp_path / "x.safetensors")


def test_layers_that_the_model_lacks_are_named_by_compose(sd1, tmp_path):
    adapter = write_lora(
        tmp_path / "deep.safetensors", "lora_unet_down_blocks_2_attentions_0_transformer_blocks_0_attn1_to_q"
    )
    with pytest.raises(UserError, match="the params do not have layers of 'deep'"):
        merge.compose(sd1.params, [adapter])
