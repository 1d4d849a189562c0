"""Layer names in kohya's layout: each is the name of one layer, and diffusers reads those of the full-size models."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as theirs
from full_size import FAMILIES, torch_model, torch_shapes

from blocklora_jax.errors import UserError
from blocklora_jax.layouts.kohya import any_kohya_table, kohya_name
from blocklora_jax.layouts.lora_layers import kernel_size, known_layers
from blocklora_jax.layouts.torch_names import flax_path

# The layers that kohya's scripts adapt: see `networks/lora.py` and `lora_diffusers`.
BLOCKS = {"Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D", "CLIPAttention", "CLIPMLP"}


def adaptable(family: str, component: str) -> dict[str, torch.nn.Module]:
    """Linear and convolution layers of the full-size model by PyTorch name."""
    found = {}
    for name, block in torch_model(family, component).named_modules():
        if type(block).__name__ in BLOCKS:
            for inner, layer in block.named_modules():
                if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):
                    found[f"{name}.{inner}" if inner else name] = layer
    return found


def parts(family: str) -> list[str]:
    return [component for component in torch_shapes(family) if component != "vae"]


def layer_path(component: str, name: str) -> str:
    return flax_path(component, f"{name}.weight", 2).rsplit("/", 1)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_the_full_size_models_has_one_name_that_is_read_back(family):
    table, count = any_kohya_table(), 0
    for component in parts(family):
        for name, module in adaptable(family, component).items():
            layer = layer_path(component, name)
            assert layer in known_layers(component)
            assert table[kohya_name(component, layer, family)] == (component, layer)
            size = module.kernel_size[0] if isinstance(module, torch.nn.Conv2d) else None
            assert kernel_size(layer, family) == size, name
            count += 1
    # 1.5: 192 layers of transformers, 80 of residual blocks, 6 samplers; 72 of the text encoder.
    assert count == {"sd1": 192 + 80 + 6 + 72, "sd2": 192 + 80 + 6 + 138, "sdxl": 722 + 62 + 4 + 72 + 192}[family]


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_names_are_those_of_pytorch_with_underscores(family):
    for component in parts(family):
        prefix = "lora_unet_" if component == "unet" else "lora_te_"
        for name in adaptable(family, component):
            form = name if component == "unet" else f"text_model.{name.removeprefix('text_model.')}"
            assert kohya_name(component, layer_path(component, name), family) == prefix + form.replace(".", "_")


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_second_text_encoder_has_no_name_in_families_without_one(family):
    layer = "text_model/encoder/layers/0/mlp/fc1"
    assert kohya_name("text_encoder_2", layer, "sdxl") == "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    with pytest.raises(UserError, match=rf"text_encoder_2, {layer}, .*\({family}\) does not have: .*\(sdxl\)"):
        kohya_name("text_encoder_2", layer, family)


def test_diffusers_maps_the_names_of_sdxl_back_to_its_own():
    names = {name: kohya_name("unet", layer_path("unet", name), "sdxl") for name in adaptable("sdxl", "unet")}
    state = {f"{name}.lora_down.weight": original for original, name in names.items()}
    unet = torch_model("sdxl", "unet")
    for key, original in theirs._maybe_map_sgm_blocks_to_diffusers(state, unet.config).items():
        name = theirs._convert_unet_lora_key(key).replace(".processor", "")
        name = name.replace("to_out_lora.down.weight", "to_out.0").replace("_lora.down.weight", "")
        assert name.removesuffix(".lora.down.weight").removesuffix(".lora_down.weight") == original


def test_a_trainer_may_name_the_layers_of_sdxl_as_pytorch_does():
    table = any_kohya_table()
    layer = ("unet", "down_blocks_1/attentions_0/transformer_blocks_1/attn2/to_out_0")
    assert table["lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0"] == layer
    assert table["lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_out_0"] == layer
    assert table["lora_unet_output_blocks_2_2_conv"] == ("unet", "up_blocks_0/upsamplers_0/conv")
