"""LoRA files with the names of other programs give the same adapter, bit for bit, as with kohya's and PEFT's names."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from safetensors.numpy import save_file

from blocklora_jax import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.dialects import find_layer
from blocklora_jax.layouts.lora_layers import known_layers, ldm_names, module_name

UNET = {
    "conv_in": (8, 4, 3, 3),
    "down_blocks_1/attentions_1/transformer_blocks_0/attn1/to_out_0": (8, 8),
    "down_blocks_0/resnets_0/conv1": (8, 8, 3, 3),
    "down_blocks_0/resnets_1/time_emb_proj": (8, 16),
    "down_blocks_1/downsamplers_0/conv": (8, 8, 3, 3),
    "mid_block/attentions_0/proj_in": (8, 8),
    "up_blocks_0/attentions_2/transformer_blocks_1/ff/net_0/proj": (16, 8),
    "up_blocks_0/upsamplers_0/conv": (8, 8, 3, 3),
    "up_blocks_1/resnets_2/conv_shortcut": (8, 16, 1, 1),
    "time_embedding/linear_1": (16, 8),
    "add_embedding/linear_2": (16, 8),
}
TEXT = {"text_model/encoder/layers/3/self_attn/q_proj": (8, 8), "text_model/encoder/layers/1/mlp/fc1": (16, 8)}


def ldm(layer):
    """The LDM name. An upsampler may have two; this is the one of SDXL, where an attention comes before it."""
    return max(ldm_names(layer))


def dotted(component):
    return lambda layer: module_name(component, layer)


def underscored(name):
    return name.replace(".", "_")


# {dialect: (name of a layer of the U-Net, of the first text encoder, of the second)}; None: no such layers.
DIALECTS = {
    "save_lora_adapter": (dotted("unet"), None, None),
    "ComfyUI": (
        lambda layer: f"diffusion_model.{ldm(layer)}",
        lambda layer: f"text_encoders.clip_l.transformer.{module_name('text_encoder', layer)}",
        lambda layer: f"text_encoders.clip_g.transformer.{module_name('text_encoder_2', layer)}",
    ),
    "ai-toolkit": (lambda layer: f"diffusion_model.{module_name('unet', layer)}", None, None),
    "OneTrainer": (
        lambda layer: f"unet.{ldm(layer)}",
        lambda layer: f"clip_l.{module_name('text_encoder', layer)}",
        lambda layer: f"clip_g.{module_name('text_encoder_2', layer)}",
    ),
    "SimpleTuner": (lambda layer: f"lycoris_{underscored(module_name('unet', layer))}", None, None),
    "LyCORIS": (
        lambda layer: f"lycoris_unet_{underscored(ldm(layer))}",
        lambda layer: f"lycoris_te1_{underscored(module_name('text_encoder', layer))}",
        lambda layer: f"lycoris_te2_{underscored(module_name('text_encoder_2', layer))}",
    ),
    "diffusers": (
        lambda layer: f"unet.{module_name('unet', layer)}",
        lambda layer: f"text_encoder.{module_name('text_encoder', layer)}",
        lambda layer: f"text_encoder_2.{module_name('text_encoder_2', layer)}",
    ),
    "OneTrainer before OMI": (
        lambda layer: f"lora_unet.{module_name('unet', layer)}",
        lambda layer: f"lora_te1.{module_name('text_encoder', layer)}",
        lambda layer: f"lora_te2.{module_name('text_encoder_2', layer)}",
    ),
    "kohya of SDXL": (
        lambda layer: f"lora_unet_{underscored(ldm(layer))}",
        lambda layer: f"lora_te1_{underscored(module_name('text_encoder', layer))}",
        lambda layer: f"lora_te2_{underscored(module_name('text_encoder_2', layer))}",
    ),
    "OFT of kohya": (
        lambda layer: f"oft_unet_{underscored(ldm(layer))}",
        lambda layer: f"oft_te1_{underscored(module_name('text_encoder', layer))}",
        lambda layer: f"oft_te2_{underscored(module_name('text_encoder_2', layer))}",
    ),
}
KOHYA = (
    lambda layer: f"lora_unet_{underscored(module_name('unet', layer))}",
    lambda layer: f"lora_te1_{underscored(module_name('text_encoder', layer))}",
    lambda layer: f"lora_te2_{underscored(module_name('text_encoder_2', layer))}",
)


def write(path, namers, alphas=True, roles=("lora_down.weight", "lora_up.weight")):
    """The same random LoRA under each dialect's names."""
    rng, tensors = np.random.default_rng(0), {}
    for namer, layers in zip(namers, (UNET, TEXT, TEXT), strict=True):
        for index, (layer, (outputs, inputs, *window)) in enumerate(layers.items()):
            down = rng.standard_normal((2, inputs, *window), np.float32)
            up = rng.standard_normal((outputs, 2, *(1 for _ in window)), np.float32)
            if namer is not None:
                tensors |= {f"{namer(layer)}.{role}": x for role, x in zip(roles, (down, up), strict=True)}
                tensors |= {f"{namer(layer)}.alpha": np.float32(1 + index)[None][0:1].reshape(())} if alphas else {}
    save_file(tensors, path)
    return Adapter.load(path)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("roles", [("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight")])
def test_a_dialect_reads_as_the_same_adapter(dialect, roles, tmp_path):
    namers = DIALECTS[dialect]
    got = write(tmp_path / "a.safetensors", namers, roles=roles)
    wanted = write(tmp_path / "b.safetensors", [k if n else None for k, n in zip(KOHYA, namers, strict=True)])
    assert got.lora.keys() == wanted.lora.keys()
    jax.tree.map(np.testing.assert_array_equal, got.lora, wanted.lora)


@pytest.mark.parametrize("layer", sorted(known_layers("unet"))[::37])
def test_every_layer_of_the_unet_has_its_name_in_every_dialect(layer):
    for namer, _, _ in DIALECTS.values():
        assert find_layer(namer(layer)) == ("unet", layer)


@pytest.mark.parametrize(
    "head",
    [
        "lycoris_text_model_encoder_layers_0_mlp_fc1",
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "diffusion_model.input_blocks.99.1.proj_in",
        "down_blocks.9.resnets.0.conv1",
        "text_encoders.t5xxl.transformer.encoder.block.0",
        "clip_l.visual_projection",
        "unet.lora_unet_conv_in",
        "conv_in.conv_in",
    ],
)
def test_a_name_that_is_not_certainly_a_layer_gives_none(head):
    assert find_layer(head) is None


def test_clip_h_is_the_text_encoder_of_2x(tmp_path):
    name = "text_encoders.clip_h.transformer.text_model.encoder.layers.3.self_attn.q_proj"
    pair = {"lora_down": np.ones((2, 8), np.float32), "lora_up": np.ones((8, 2), np.float32)}
    save_file({f"{name}.{role}.weight": x for role, x in pair.items()}, tmp_path / "a.safetensors")
    adapter = Adapter.load(tmp_path / "a.safetensors")
    assert set(adapter.lora) == {"text_encoder"}
    assert adapter.info.base_family == "sd2"


@pytest.fixture(scope="module")
def unet():
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def test_a_file_that_diffusers_saves_of_a_unet_alone_is_read_with_its_scale(unet, tmp_path):
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "conv1"], init_lora_weights=False,
                        alpha_pattern={"attn1.to_q": 3})  # fmt: skip
    unet.add_adapter(config, "style")
    try:
        unet.save_lora_adapter(tmp_path, adapter_name="style")
        scales = {name: layer.scaling["style"] for name, layer in unet.named_modules() if hasattr(layer, "scaling")}
        layers = {name: layer for name, layer in unet.named_modules() if name in scales}
        adapter = Adapter.load(tmp_path / "pytorch_lora_weights.safetensors")
        assert len(adapter.lora["unet"]) == len(scales) > 4
        assert set(scales.values()) == {1.5, 3.0}
        for name, layer in layers.items():
            path = find_layer(name)[1]
            a, b = adapter.lora["unet"][path]
            change = layer.get_delta_weight("style").detach().numpy()
            ours = (a @ b).T if change.ndim == 2 else (a @ b).reshape(3, 3, -1, b.shape[1]).transpose(3, 2, 0, 1)
            # fp32 products of rank 2.
            np.testing.assert_allclose(ours, change, atol=1e-6, err_msg=name)
    finally:
        unet.delete_adapters("style")


def test_a_file_that_save_attn_procs_wrote_is_read(tmp_path):
    head = "mid_block.attentions.0.transformer_blocks.0.attn2"
    down, up = np.full((2, 8), 0.5, np.float32), np.ones((8, 2), np.float32)
    for file, key in (
        ("old", ".processor.{}_lora.{}.weight"),
        ("new", ".{}.lora.{}.weight"),
        ("peft", ".{}.lora_{}.weight"),
    ):
        roles = ("A", "B") if file == "peft" else ("down", "up")
        tensors = {
            head + key.format(name, role): x
            for name in ("to_q", "to_out" if file == "old" else "to_out.0")
            for role, x in zip(roles, (down, up), strict=True)
        }
        save_file(tensors, tmp_path / f"{file}.safetensors")
        lora = Adapter.load(tmp_path / f"{file}.safetensors").lora["unet"]
        assert {path.rpartition("/")[2] for path in lora} == {"to_q", "to_out_0"}
        assert all((pair.lora_A == 0.5).all() for pair in lora.values())


def test_layers_under_two_names_are_refused(tmp_path):
    names = ["down_blocks.0.resnets.0.conv1", "lora_unet_down_blocks_0_resnets_0_conv1"]
    save_file(
        {f"{name}.lora_down.weight": np.ones((2, 8, 3, 3), np.float32) for name in names}, tmp_path / "a.safetensors"
    )
    with pytest.raises(UserError, match="under two names"):
        Adapter.load(tmp_path / "a.safetensors")
