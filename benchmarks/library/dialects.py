"""The names that programs give to the tensors of LoRAs of Stable Diffusion 1.x."""

from __future__ import annotations

from collections.abc import Callable

from blocklora_jax.layouts.lora_layers import ldm_name
from blocklora_jax.layouts.torch_names import flax_path

# (component, PyTorch's name of a layer, end of the tensor's name in kohya's layout) -> the tensor's name.
Dialect = Callable[[str, str, str], str]
# The ends in PEFT's layout.
_PEFT = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
_OLD = {"lora_down.weight": "_lora.down.weight", "lora_up.weight": "_lora.up.weight"}


def kohya(component: str, layer: str, end: str) -> str:
    """sd-scripts, LyCORIS, A1111."""
    return f"lora_{'unet' if component == 'unet' else 'te'}_{layer.replace('.', '_')}.{end}"


def lycoris(component: str, layer: str, end: str) -> str:
    """LyCORIS around a U-Net; text encoders as kohya names them."""
    return kohya(component, layer, end).replace("lora_unet_", "lycoris_")


def diffusers(component: str, layer: str, end: str) -> str:
    """diffusers with PEFT."""
    return f"{component}.{layer}.{_PEFT.get(end, end)}"


def unet_alone(component: str, layer: str, end: str) -> str:
    """diffusers' `unet.save_lora_adapter`."""
    return diffusers(component, layer, end).removeprefix("unet.")


def old_diffusers(component: str, layer: str, end: str) -> str:
    """diffusers before PEFT: `to_q_lora.down`, for attention layers of the U-Net."""
    module, _, name = layer.removesuffix(".0").rpartition(".")
    return f"unet.{module}.processor.{name}{_OLD[end]}" if end in _OLD else f"{component}.{layer}.{end}"


def comfy(component: str, layer: str, end: str) -> str:
    """ComfyUI: LDM's names."""
    if component != "unet":
        return f"text_encoders.clip_l.transformer.{layer}.{_PEFT.get(end, end)}"
    path = flax_path("unet", f"{layer}.weight", 2).rsplit("/", 1)[0]
    return f"diffusion_model.{ldm_name(path)}.{end}"


def ai_toolkit(component: str, layer: str, end: str) -> str:
    """ai-toolkit: diffusers' names behind ComfyUI's prefix."""
    return diffusers(component, layer, end).replace("unet.", "diffusion_model.", 1)


def one_trainer(component: str, layer: str, end: str) -> str:
    """OneTrainer: LDM's names behind diffusers' prefix."""
    return (
        comfy(component, layer, end)
        .replace("diffusion_model.", "unet.")
        .replace("text_encoders.clip_l.transformer", "clip_l")
    )


DIALECTS: dict[str, Dialect] = {
    "kohya": kohya, "LyCORIS": lycoris, "diffusers": diffusers, "U-Net alone": unet_alone,
    "old diffusers": old_diffusers, "ComfyUI": comfy, "ai-toolkit": ai_toolkit, "OneTrainer": one_trainer,
}  # fmt: skip
