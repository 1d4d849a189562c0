"""LoHa, LoKr, OFT, BOFT, IA3, DoRA, PiSSA and OLoRA of PEFT: composed weights are those that PEFT merges."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from peft.tuners.boft.layer import BOFTLayer

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.algorithms.boft import INPUT_BOFT
from blocklora_jax.external_lora.algorithms.layer import Layer
from blocklora_jax.external_lora.changes import weight_of
from blocklora_jax.layouts.torch_names import to_flax

FC1 = "text_model.encoder.layers.0.mlp.fc1"
CONV = "down_blocks.0.resnets.0.conv1"
LINEAR_KINDS = {
    "LoRA with biases": LoraConfig(r=2, lora_alpha=6, lora_bias=True, init_lora_weights=False),
    "DoRA": LoraConfig(r=2, lora_alpha=6, use_dora=True, init_lora_weights=False),
    "rank-stabilised DoRA": LoraConfig(r=4, lora_alpha=2, use_dora=True, use_rslora=True, init_lora_weights=False),
    "LoHa": LoHaConfig(r=2, alpha=3, init_weights=False),
    "LoKr": LoKrConfig(r=2, alpha=3, init_weights=False, decompose_factor=2),
    "LoKr of whole sides": LoKrConfig(r=32, alpha=8, init_weights=False, rank_pattern={"fc1": 16}),
    "LoKr of two pairs": LoKrConfig(r=1, alpha=3, init_weights=False, decompose_both=True),
    "OFT": OFTConfig(r=0, oft_block_size=4, init_weights=False, use_cayley_neumann=False),
    "OFT by a series": OFTConfig(r=0, oft_block_size=4, init_weights=False, use_cayley_neumann=True),
    "OFT by a short series": OFTConfig(r=2, oft_block_size=0, init_weights=False, num_cayley_neumann_terms=3),
    "OFT with shared blocks": OFTConfig(r=0, oft_block_size=4, init_weights=False, block_share=True),
    "BOFT": BOFTConfig(boft_block_size=4, init_weights=False),
    "IA3 of outputs": IA3Config(feedforward_modules=[], init_ia3_weights=False),
    "IA3 of inputs": IA3Config(feedforward_modules=["fc1"], init_ia3_weights=False),
}
CONV_KINDS = {
    "DoRA": LoraConfig(r=2, lora_alpha=6, use_dora=True, init_lora_weights=False),
    "LoHa": LoHaConfig(r=2, alpha=3, init_weights=False),
    "LoHa with cores": LoHaConfig(r=2, alpha=3, init_weights=False, use_effective_conv2d=True),
    "LoKr": LoKrConfig(r=2, alpha=3, init_weights=False),
    "LoKr with a core": LoKrConfig(r=1, alpha=3, init_weights=False, use_effective_conv2d=True, decompose_factor=2),
    "OFT": OFTConfig(r=0, oft_block_size=4, init_weights=False, use_cayley_neumann=False),
    "BOFT": BOFTConfig(boft_block_size=4, init_weights=False),
    "IA3 of outputs": IA3Config(feedforward_modules=[], init_ia3_weights=False),
    "IA3 of inputs": IA3Config(feedforward_modules=["conv1"], init_ia3_weights=False),
}


def nested(name, layer):
    """A model whose only layer has this dotted name."""
    for part in reversed(name.split(".")):
        layer = torch.nn.ModuleList([layer]) if part == "0" else torch.nn.ModuleDict({part: layer})
    return layer


def layer_of(name):
    torch.manual_seed(0)
    return torch.nn.Linear(8, 16) if name == FC1 else torch.nn.Conv2d(8, 12, 3, padding=1)


def saved(name, config, folder):
    """A random adapter that PEFT saved; the base as Flax parameters; the merged weight and bias."""
    layer = layer_of(name)
    before = {key: x.detach().numpy().copy() for key, x in layer.state_dict().items()}
    config.target_modules = [name.rsplit(".", 1)[1]]
    peft = get_peft_model(nested(name, layer), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if "base_layer" not in key and parameter.requires_grad:
                start = 1.0 if "ia3_l" in key or "magnitude" in key or "boft_s" in key else 0.0
                parameter.copy_(start + 0.2 * torch.randn_like(parameter))
    peft.save_pretrained(folder)
    component = "text_encoder" if name == FC1 else "unet"
    base = {component: to_flax(component, {f"{name}.{key}": x for key, x in before.items()})}
    merged = peft.merge_and_unload().get_submodule(name)
    return base, merged.weight.detach().numpy(), merged.bias.detach().numpy()


def composed(adapter, base, component, path):
    """The weight, in PyTorch's layout, and the bias."""
    node = base[component]
    for part in path.split("/"):
        node = node[part]
    a, b = adapter.lora[component][path]
    change = np.asarray(a, np.float64) @ b
    kernel = node["kernel"] + change.reshape(node["kernel"].shape)
    weight = kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
    return weight, node["bias"] + adapter.vectors.get(f"{component}/{path}/bias", 0.0)


CASES = [(FC1, kind, config) for kind, config in LINEAR_KINDS.items()]
CASES += [(CONV, kind, config) for kind, config in CONV_KINDS.items()]


@pytest.mark.parametrize(("name", "kind", "config"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_what_peft_merges_is_composed(name, kind, config, tmp_path):
    base, weight, bias = saved(name, config, tmp_path)
    component, path = ("text_encoder", FC1.replace(".", "/")) if name == FC1 else (
        "unet", "down_blocks_0/resnets_0/conv1"
    )  # fmt: skip
    adapter = Adapter.load(tmp_path / "adapter_model.safetensors", base=base)
    got = composed(adapter, base, component, path)
    # fp32; relative to the largest weight.
    np.testing.assert_allclose(got[0], weight, atol=1e-6 * np.abs(weight).max(), rtol=0)
    np.testing.assert_allclose(got[1], bias, atol=1e-6 * np.abs(bias).max(), rtol=0)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_that_change_the_base_are_read_with_it(start, tmp_path):
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 16)
    before = {key: x.detach().numpy().copy() for key, x in layer.state_dict().items()}
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["fc1"], init_lora_weights=start)
    peft = get_peft_model(nested(FC1, layer), config)
    wrapped = peft.base_model.model.get_submodule(FC1)
    with torch.no_grad():
        wrapped.lora_B["default"].weight += 0.2
    after = (wrapped.base_layer.weight + wrapped.get_delta_weight("default")).detach().numpy().copy()
    peft.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    with pytest.raises(UserError, match="changes the base model too") as error:
        Adapter.load(path)
    assert "--model" in str(error.value)
    base = {"text_encoder": to_flax("text_encoder", {f"{FC1}.{key}": x for key, x in before.items()})}
    adapter = Adapter.load(path, base=base)
    (pair,) = adapter.lora["text_encoder"].values()
    assert pair.lora_A.shape[1] == 6
    # fp32; relative to the largest weight. PEFT computes the start in fp32 too.
    wanted = after - before["weight"]
    np.testing.assert_allclose((pair.lora_A @ pair.lora_B).T, wanted, atol=2e-6 * np.abs(after).max(), rtol=0)
    settings = json.loads((tmp_path / "adapter_config.json").read_text()) | {"init_lora_weights": "pissa_niter_4"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="PiSSA changes the base model too"):
        Adapter.load(path, base=base)


@pytest.mark.parametrize("start", ["pissa_niter_4", "olora"])
@pytest.mark.parametrize("place", ["{}_init", "../{}_init"])
def test_starts_that_change_the_base_are_read_with_the_adapter_before_training(start, place, tmp_path):
    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 16)
    before = layer.weight.detach().numpy().copy()
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["fc1"], init_lora_weights=start)
    peft = get_peft_model(nested(FC1, layer), config)
    # As PEFT's guide says, with an ordinary initialisation in its settings.
    peft.peft_config["default"].init_lora_weights = True
    peft.save_pretrained(tmp_path / "run" / place.format(start.split("_")[0]))
    peft.peft_config["default"].init_lora_weights = start
    wrapped = peft.base_model.model.get_submodule(FC1)
    with torch.no_grad():
        wrapped.lora_B["default"].weight += 0.2
    after = (wrapped.base_layer.weight + wrapped.get_delta_weight("default")).detach().numpy().copy()
    peft.save_pretrained(tmp_path / "run")
    (pair,) = Adapter.load(tmp_path / "run" / "adapter_model.safetensors").lora["text_encoder"].values()
    # fp32; relative to the largest weight. PEFT rounds the changed base to fp32.
    np.testing.assert_allclose((pair.lora_A @ pair.lora_B).T, after - before, atol=2e-6 * np.abs(after).max(), rtol=0)


@pytest.mark.parametrize(("stages", "blocks", "size"), [(2, 4, 2), (3, 4, 4), (2, 2, 6)])
def test_butterflies_of_several_stages_are_those_of_peft(stages, blocks, size):
    # On a CPU PEFT itself makes only one stage: its parts are put together here as its code does.
    rows = blocks * size
    rng = np.random.default_rng(0)
    data = torch.tensor(0.3 * rng.standard_normal((stages, blocks, size, size)))
    weight = rng.standard_normal((5, rows))
    total = torch.eye(rows, dtype=torch.float64)
    for stage in range(stages):
        order = BOFTLayer.block_butterfly_perm(None, rows, blocks // 2**stage, size // 2, stages - 1)
        place = BOFTLayer.perm2mat(None, order).double()
        rotation = torch.block_diag(*BOFTLayer.cayley_batch(None, data[stage]))
        total = place @ rotation @ place.T @ total
    parts = {"boft_R": data.numpy().astype(np.float32), "boft_s": np.ones((5, 1), np.float32)}
    layer = Layer(component="unet", path="x", parts=parts, weight=weight.astype(np.float32))
    change = weight_of(INPUT_BOFT.change(layer))
    # fp32 rotations of weights near 3.
    np.testing.assert_allclose(change, weight @ total.numpy().T - weight, atol=3e-6)


def test_a_dora_without_its_lengths_is_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    base, _, _ = saved(FC1, LINEAR_KINDS["DoRA"], tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: x for key, x in load_file(path).items() if "magnitude" not in key}, path)
    with pytest.raises(UserError, match="it is a DoRA"):
        Adapter.load(path, base=base)


def test_settings_of_another_kind_than_the_tensors_are_named(tmp_path):
    base, _, _ = saved(FC1, LINEAR_KINDS["LoHa"], tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "LOKR"}))
    with pytest.raises(UserError, match="peft_type = 'LOKR': it is not a LOHA"):
        Adapter.load(tmp_path / "adapter_model.safetensors", base=base)
