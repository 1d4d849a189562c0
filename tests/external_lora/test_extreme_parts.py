"""Parts that multiply to nothing, to infinity or not at all give one line that names the layer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError

LINEAR = "down_blocks_0/attentions_0/transformer_blocks_0/attn1/to_q"
CONV = "up_blocks_0/resnets_0/conv1"
FC1 = "text_model.encoder.layers.0.mlp.fc1"


def ones(*shape, value=1.0):
    return np.full(shape, value, np.float32)


def base_of(path, *shape):
    """A model of one layer of U-Net, with this kernel."""
    node = {"kernel": ones(*shape)}
    for part in reversed(path.split("/")):
        node = {part: node}
    return {"unet": node}


def write(folder, path, parts):
    head = "lora_unet_" + path.replace("/", "_")
    save_file({f"{head}.{name}": part for name, part in parts.items()}, folder / "a.safetensors")
    return folder / "a.safetensors"


GLORA = {"a1.weight": ones(8, 2), "a2.weight": ones(2, 8), "b1.weight": ones(8, 2), "b2.weight": ones(2, 8)}
ROOTS = {
    f"hada_w{i}_{side}": ones(*shape, value=1e30) for i in (1, 2) for side, shape in (("a", (8, 2)), ("b", (2, 8)))
}


@pytest.mark.parametrize(
    ("path", "parts", "kernel", "message"),
    [
        (CONV, {**GLORA, "bm.weight": ones(2, 3, 3, 3)}, (3, 3, 8, 8), "is misshapen"),
        (CONV, {**GLORA, "b2.weight": ones(2, 8, 3, 3), "bm.weight": ones(2, 2, 3, 3)}, (3, 3, 8, 8), "is misshapen"),
        (LINEAR, {"lokr_w1_a": ones(0, 2), "lokr_w1_b": ones(2, 4), "lokr_w2": ones(2, 2)}, None, "nothing in it"),
        (LINEAR, ROOTS, None, "too large"),
    ],
)
@pytest.mark.parametrize("max_rank", [None, 4])
def test_extreme_parts_are_one_line(tmp_path, path, parts, kernel, message, max_rank):
    file = write(tmp_path, path, parts)
    base = base_of(path, *kernel) if kernel else None
    with pytest.raises(UserError, match=message) as error:
        Adapter.load(file, base=base, max_rank=max_rank)
    assert path in str(error.value)


def write_peft(folder, parts, **settings):
    tensors = {f"base_model.model.{FC1}.{name}": part for name, part in parts.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder / "adapter_model.safetensors"


BASE = {"text_encoder": {"text_model": {"encoder": {"layers": {"0": {"mlp": {"fc1": {"kernel": ones(4, 6)}}}}}}}}
OFT = {"oft_R.weight": ones(2, 1, value=0.1)}
IA3 = {"ia3_l": ones(6, 1, value=2.0)}
LOKR = {"lokr_w1": ones(2, 2), "lokr_w2": ones(3, 2)}


@pytest.mark.parametrize(
    ("parts", "settings", "message"),
    [
        (OFT, {"peft_type": "OFT", "num_cayley_neumann_terms": None}, ""),
        (OFT, {"peft_type": "OFT", "lora_alpha": "x", "r": 2}, ""),
        (OFT, {"peft_type": "OFT", "rank_pattern": {"(": 3}}, ""),
        (OFT, {"peft_type": "OFT", "rank_pattern": [3]}, ""),
        (IA3, {"peft_type": "IA3", "feedforward_modules": 5}, "must be a list of names"),
        (IA3, {"peft_type": "IA3", "feedforward_modules": [5]}, "must be a list of names"),
        (IA3, {"peft_type": "IA3", "feedforward_modules": "(a+)+"}, "more than names of layers"),
        (LOKR, {"peft_type": "LOKR", "alpha": 4, "r": -2, "use_rslora": True}, "must be a number above 0"),
        (LOKR, {"peft_type": "LOKR", "alpha": 4, "rank_pattern": {"fc1": 0}}, "must be a number above 0"),
    ],
)
def test_settings_of_other_kinds_than_lora_are_obeyed_or_named(tmp_path, parts, settings, message):
    path = write_peft(tmp_path, parts, **settings)
    if not message:
        assert Adapter.load(path, base=BASE).lora
        return
    with pytest.raises(UserError, match=message) as error:
        Adapter.load(path, base=BASE)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("modules", "on_inputs"),
    [(["conv1"], True), (["v1"], True), (["conv2"], False), ("conv1", False), (".*conv1", True), ([], False)],
)
def test_ia3_of_a_convolution_scales_inputs_where_peft_does(tmp_path, modules, on_inputs):
    # In PEFT a list holds ends of names, and a text is a pattern for the whole name.
    tensors = {"base_model.model.up_blocks.0.resnets.0.conv1.ia3_l": ones(1, 2, 1, 1)}
    tensors["base_model.model.up_blocks.0.resnets.0.conv1.ia3_l"][0, 1] = 3
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "IA3", "feedforward_modules": modules}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    adapter = Adapter.load(tmp_path / "adapter_model.safetensors", base=base_of(CONV, 3, 3, 2, 2))
    a, b = adapter.lora["unet"][CONV]
    change = (a @ b).reshape(3, 3, 2, 2)
    wanted = np.array([0.0, 2.0])[:, None] if on_inputs else np.array([0.0, 2.0])[None, :]
    # Sums and products of small whole numbers are exact.
    np.testing.assert_array_equal(change, np.broadcast_to(wanted, (3, 3, 2, 2)))
