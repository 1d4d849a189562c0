"""PEFT's settings: each field of its config is obeyed, ignored, or refused. Patterns take little time."""

from __future__ import annotations

import json
import time
from dataclasses import MISSING, fields

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.numpy import save_file

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.external_lora.peft_fields import refuse_settings
from blocklora_jax.external_lora.peft_patterns import check_patterns, matches

NAME = "text_model.encoder.layers.0.mlp.fc1"


def write(folder, settings, where):
    """A LoRA of ones. Its settings are beside it, in its header, or in its header in the form for a U-Net alone."""
    tensors = {"lora_A.weight": np.ones((2, 8), np.float32), "lora_B.weight": np.ones((16, 2), np.float32)}
    head = {"beside": f"base_model.model.{NAME}", "header": f"text_encoder.{NAME}", "bare": "conv_in"}[where]
    if where == "bare":
        tensors = {
            "lora_A.weight": np.ones((2, 4, 3, 3), np.float32),
            "lora_B.weight": np.ones((8, 2, 1, 1), np.float32),
        }
    flat = {f"text_encoder.{key}" if where == "header" else key: value for key, value in settings.items()}
    metadata = {} if where == "beside" else {"lora_adapter_metadata": json.dumps(flat)}
    save_file({f"{head}.{key}": x for key, x in tensors.items()}, folder / "adapter_model.safetensors", metadata)
    if where == "beside":
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder / "adapter_model.safetensors"


PLACES = ["beside", "header", "bare"]
PLAIN = {"r": 2, "lora_alpha": 4}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "OLoRA"])
def test_initialisations_that_change_the_base_are_refused(tmp_path, start, where):
    path = write(tmp_path, {**PLAIN, "init_lora_weights": start}, where)
    with pytest.raises(UserError, match="changes the base model too") as error:
        Adapter.load(path)
    assert "path_initial_model_for_weight_conversion" in str(error.value)
    assert repr(start) in str(error.value)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_do_not_change_the_base_are_read(tmp_path, start, where):
    adapter = Adapter.load(write(tmp_path, {**PLAIN, "init_lora_weights": start, "use_rslora": True}, where))
    (pair,) = next(iter(adapter.lora.values())).values()
    np.testing.assert_allclose(pair.lora_A, 4 / 2**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "it is a DoRA"),
        ({"lora_bias": True}, "it has biases"),
        ({"bias": "lora_only"}, "it has biases"),
        ({"fan_in_fan_out": True}, "transposed"),
        ({"modules_to_save": ["conv_in"]}, "replaces whole layers"),
        ({"trainable_token_indices": [5]}, "token table"),
        ({"target_parameters": ["x"]}, "not layers"),
        ({"layer_replication": [[0, 2]]}, "repeats layers"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "BD-LoRA"),
        ({"megatron_config": {"a": 1}}, "Megatron"),
        ({"kasa_config": {"beta": 1e-4}}, "KaSA"),
        ({"peft_type": "LOHA"}, "it is not a LoRA"),
        ({"init_lora_weights": "tomorrow"}, "does not know"),
        ({"init_lora_weights": ["pissa"]}, "does not know"),
        ({"use_tomorrow": True}, "use_tomorrow = True, which this version does not know"),
        ({"lora_alpha": None}, "unusable lora_alpha"),
        ({"lora_alpha": "4"}, "unusable lora_alpha"),
        ({"lora_alpha": True}, "unusable lora_alpha"),
        ({"lora_alpha": float("nan")}, "unusable lora_alpha"),
        ({"lora_alpha": 1e300}, "unusable lora_alpha"),
        ({"alpha_pattern": ["to_q"]}, "alpha_pattern .* must be a JSON object"),
        ({"alpha_pattern": {"to_q": "x"}}, "unusable lora_alpha or alpha_pattern: to_q"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "more than names of layers"),
    ],
)
@pytest.mark.parametrize("where", PLACES)
def test_settings_that_change_the_mathematics_are_refused(tmp_path, settings, message, where):
    path = write(tmp_path, {**PLAIN, **settings}, where)
    with pytest.raises(UserError, match=message.replace("(", "[(]")) as error:
        Adapter.load(path)
    assert str(path) in str(error.value)


def test_every_setting_of_peft_is_known():
    values = {}
    for field in fields(LoraConfig):
        values[field.name] = None if field.default is MISSING else field.default
    assert refuse_settings({**values, "peft_type": "LORA"}) is None
    unknown = [
        name
        for name in values
        if "does not know" in (refuse_settings({name: "x"}) or "") and name != "init_lora_weights"
    ]
    assert unknown == []


def text_encoder(fc1):
    """A text encoder with a single layer."""
    nest = torch.nn.ModuleDict
    layers = torch.nn.ModuleList([nest({"mlp": nest({"fc1": fc1})})])
    return nest({"text_model": nest({"encoder": nest({"layers": layers})})})


def test_what_peft_saves_by_default_is_read(tmp_path):
    model = text_encoder(torch.nn.Linear(8, 16))
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["fc1"], init_lora_weights=False, rank_pattern={"fc1": 4})
    peft = get_peft_model(model, config)
    peft.save_pretrained(tmp_path)
    (pair,) = Adapter.load(tmp_path / "adapter_model.safetensors").lora["text_encoder"].values()
    change = peft.base_model.model.get_submodule(NAME).get_delta_weight("default").detach().numpy()
    # fp32 products of rank 4.
    np.testing.assert_allclose((pair.lora_A @ pair.lora_B).T, change, atol=1e-6)


def test_a_pissa_is_refused_but_read_after_peft_has_converted_it(tmp_path):
    torch.manual_seed(0)
    fc1 = torch.nn.Linear(8, 16, bias=False)
    before = fc1.weight.detach().numpy().copy()
    model = text_encoder(fc1)
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=2, target_modules=["fc1"], init_lora_weights="pissa"))
    # As PEFT's guide says, the initial adapter is saved first, with an ordinary initialisation in its settings.
    peft.peft_config["default"].init_lora_weights = True
    peft.save_pretrained(tmp_path / "start")
    peft.peft_config["default"].init_lora_weights = "pissa"
    layer = peft.base_model.model.get_submodule(NAME)
    with torch.no_grad():
        layer.lora_B["default"].weight += 0.3
    after = (layer.base_layer.weight + layer.get_delta_weight("default")).detach().numpy().copy()
    peft.save_pretrained(tmp_path / "pissa")
    with pytest.raises(UserError, match="PiSSA changes the base model too"):
        Adapter.load(tmp_path / "pissa/adapter_model.safetensors")
    peft.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=tmp_path / "start")
    (pair,) = Adapter.load(tmp_path / "plain/adapter_model.safetensors").lora["text_encoder"].values()
    # fp32 sums and products of rank 2, with numbers near 1.
    np.testing.assert_allclose((pair.lora_A @ pair.lora_B).T, after - before, atol=2e-6)


PATTERNS = [
    "attn1.to_q",
    "^down_blocks.0.to_q",
    "to_q",
    "to_k",
    "attn[12].to_(q|k)",
    ".*attn1.*",
    "^up.*to_q$",
    "o_q",
    "(to_q|to_v)",
]
NAMES = ["down_blocks.0.to_q", "down_blocks.0.attn1.to_q", "up.attn2.to_k", "to_q", "up.xto_q", "mid.to_v"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_in_peft(pattern):
    assert check_patterns([pattern]) is None
    for name in NAMES:
        assert matches(pattern, name) == (get_pattern_key([pattern], name) == pattern), name


@pytest.mark.parametrize(
    "pattern",
    "(a+)+ (a*)*b (a|a)* (a|b)(c|d) a{99} (?=a) (a)\\1 ((a)) * [z-a] a.*b.*c.*".split() + ["x" * 201, "a\nb"],
)
def test_patterns_of_unbounded_cost_are_refused(pattern):
    assert "more than names of layers" in check_patterns([pattern])


def test_too_many_patterns_are_refused_and_the_slowest_allowed_ones_are_quick():
    assert "2001 patterns are more than" in check_patterns([f"layer{i}" for i in range(2001)])
    assert "9 patterns with wildcards" in check_patterns([f"a.*{i}" for i in range(9)])
    dear = ".*.*(.|.|.|.|.|.|.|.|.)x"
    assert check_patterns([dear]) is None
    start = time.perf_counter()
    for i in range(50):
        assert not matches(dear, f"down_blocks.2.attentions.1.transformer_blocks.{i}.attn2.to_out.0")
    # 0.4 ms each on one core. A minute for two hundred layers would be too long.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("text", ["[]", "{", "5", "[" * 100_000])
def test_damaged_settings_are_named(tmp_path, text):
    path = write(tmp_path, PLAIN, "beside")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        Adapter.load(path)
    path = write(tmp_path, PLAIN, "header")
    tensors = {f"text_encoder.{NAME}.lora_A.weight": np.ones((2, 8), np.float32)}
    save_file(tensors, path, {"lora_adapter_metadata": text})
    with pytest.raises(UserError, match="lora_adapter_metadata"):
        Adapter.load(path)
