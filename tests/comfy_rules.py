"""A reader of LoRA files by the rules of ComfyUI's `comfy/lora.py`. In tests it takes the place of ComfyUI.

Names: a weight of the U-Net has `lora_unet_` and then its LDM name or its Diffusers name, with underscores for dots. It
also has its dotted Diffusers name with `.processor` before the projections of attention. The linear layers of the text
encoders have `lora_te_`, `lora_te1_` or `lora_te2_`. Scale: alpha / rank, or 1.0 without an alpha.
"""

from __future__ import annotations

import re

import numpy as np
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

_TEXT = ("mlp.fc1", "mlp.fc2", *(f"self_attn.{x}_proj" for x in ("k", "q", "v", "out")))


def key_map(ldm_keys: list[str], unet_config: dict, text_states: list[dict]) -> dict[str, tuple[str, str]]:
    """{name in a LoRA file: (component, weight)}.

    Args:
        ldm_keys: the U-Net's keys in a single file.
        unet_config: its diffusers config.
        text_states: the text encoders' state dicts, with `text_model.`.
    """
    names: dict[str, tuple[str, str]] = {}
    # The converter of diffusers gives the Diffusers key of each LDM key.
    diffusers = convert_ldm_unet_checkpoint({key: key for key in ldm_keys}, unet_config)
    for ours, ldm in diffusers.items():
        if ours.endswith(".weight"):
            target = ("unet", ours)
            ldm = ldm.removeprefix("model.diffusion_model.").removesuffix(".weight")
            module = ours.removesuffix(".weight")
            names["lora_unet_" + ldm.replace(".", "_")] = target
            names["lora_unet_" + module.replace(".", "_")] = target
            dotted = module.replace(".to_", ".processor.to_")
            dotted = dotted[:-2] if dotted.endswith(".to_out.0") else dotted
            names[dotted] = names[f"unet.{dotted}"] = target
    for index, state in enumerate(text_states):
        prefixes = ("lora_te_", "lora_te1_") if index == 0 else ("lora_te2_",)
        for key in state:
            match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.weight", key)
            if match and match[2] in _TEXT:
                target = ("text_encoder" if index == 0 else "text_encoder_2", key)
                dotted = key.removesuffix(".weight")
                names |= dict.fromkeys([prefix + dotted.replace(".", "_") for prefix in prefixes], target)
                names[f"{target[0]}.{dotted}"] = target
    return names


def read_patches(tensors: dict[str, np.ndarray], names: dict[str, tuple[str, str]]):
    """({(component, weight): change}, keys that were not loaded)."""
    changes, loaded = {}, set()
    for name, target in names.items():
        for up_key, down_key in (
            (f"{name}.lora_up.weight", f"{name}.lora_down.weight"),
            (f"{name}_lora.up.weight", f"{name}_lora.down.weight"),
            (f"{name}.lora_B.weight", f"{name}.lora_A.weight"),
        ):
            if up_key not in tensors:
                continue
            up, down = np.asarray(tensors[up_key], np.float32), np.asarray(tensors[down_key], np.float32)
            alpha_key = f"{name}.alpha"
            scale = float(tensors[alpha_key]) / down.shape[0] if alpha_key in tensors else 1.0
            flat = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
            changes[target] = scale * flat.reshape(up.shape[0], *down.shape[1:])
            loaded |= {up_key, down_key, alpha_key}
    return changes, set(tensors) - loaded
