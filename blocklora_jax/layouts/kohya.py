"""LoRA safetensors in the layout of kohya's sd-scripts, which ComfyUI, A1111 and diffusers read.

| layer | name |
|---|---|
| U-Net of 1.x and 2.x | `lora_unet_` + PyTorch's name with `_` for `.` |
| U-Net of SDXL | `lora_unet_` + the name in SDXL's own code: `lora_unet_input_blocks_4_1_proj_in` |
| text encoder | `lora_te_text_model_encoder_layers_0_mlp_fc1`; of SDXL `lora_te1_…` and `lora_te2_…` |

Behind it `.lora_down.weight` [r, in], `.lora_up.weight` [out, r], `.alpha` (no axes).
The change is alpha / r * up @ down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

from blocklora_jax.checks.finite import narrow
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.components import ADAPTED
from blocklora_jax.layouts.families.table import DEFAULT_FAMILY, FAMILIES
from blocklora_jax.layouts.lora_layers import kernel_size, known_layers, ldm_name, ldm_names, module_name
from blocklora_jax.layouts.low_rank import LowRank, one_rank, torch_factors
from blocklora_jax.layouts.peft import with_attention


def kohya_name(component: str, layer: str, base_family: str = DEFAULT_FAMILY) -> str:
    """The name of a layer, given by its Flax path.

    Raises: UserError for a component that models of the family do not have.

    >>> kohya_name("unet", "down_blocks_1/attentions_0/proj_in", "sdxl")
    'lora_unet_input_blocks_4_1_proj_in'
    """
    family = FAMILIES[base_family]
    if (prefix := family.kohya_prefixes.get(component)) is None:
        having = " or ".join(each.name for each in FAMILIES.values() if component in each.kohya_prefixes)
        raise UserError(
            f"the LoRA has a layer of {component}, {layer}, which {family.title} ({base_family}) does not have: it is"
            f" of another kind of model ({having}), and its file or --family says the wrong one"
        )
    in_ldm = component == "unet" and family.kohya_ldm_names
    return prefix + (ldm_name(layer) if in_ldm else module_name(component, layer)).replace(".", "_")


def kohya_table(layers: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, str]]:
    """{name: (component, layer path)} of the layers of a model, in all names that there are for them.

    A table and no rule, because the underscores of a name do not say which of them stood for a dot. U-Net layers have
    two names, PyTorch's and that of SDXL's own code: trainers of 1.x use the first, of SDXL either.
    """
    table: dict[str, tuple[str, str]] = {}
    for component, paths in layers.items():
        for path in paths:
            for name in _names(component, path):
                if table.setdefault(name, (component, path)) != (component, path):
                    raise UserError(f"{name} could be {table[name]} or {(component, path)}: an odd model")
    return table


@lru_cache(maxsize=1)
def any_kohya_table() -> Mapping[str, tuple[str, str]]:
    """The table of every layer that Stable Diffusion 1.x, 2.x and XL have."""
    return kohya_table({component: known_layers(component) for component in ADAPTED})


def kohya_tensors(lowrank: LowRank, dtype: np.dtype, base_family: str = DEFAULT_FAMILY) -> dict[str, np.ndarray]:
    """The tensors of a file that every program reads alike: one rank, padded with zeros, and alpha equal to it.

    diffusers reads files whose rank or alpha differs by layer wrongly, without a word. alpha is fp32 whatever the rest
    is: in bfloat16 257 would become 256.
    """
    tensors = {}
    padded, rank = one_rank(with_attention(lowrank))
    for component, layers in padded.items():
        for layer, pair in layers.items():
            name = kohya_name(component, layer, base_family)
            size = kernel_size(layer, base_family) if component == "unet" else None
            down, up = torch_factors(*pair, size)
            tensors[f"{name}.lora_down.weight"] = narrow(f"{name}.lora_down.weight", down, dtype)
            tensors[f"{name}.lora_up.weight"] = narrow(f"{name}.lora_up.weight", up, dtype)
            tensors[f"{name}.alpha"] = np.array(rank, np.float32)
    return tensors


def _names(component: str, path: str) -> set[str]:
    tables = [family.kohya_prefixes for family in FAMILIES.values()]
    prefixes = {table[component] for table in tables if component in table}
    names = {module_name(component, path)} | (ldm_names(path) if component == "unet" else set())
    return {prefix + name.replace(".", "_") for prefix in prefixes for name in names}
