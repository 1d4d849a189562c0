"""LoRA safetensors in the layout of kohya's sd-scripts, which ComfyUI, A1111 and diffusers read.

| layer | name |
|---|---|
| U-Net of 1.x and 2.x | `lora_unet_` + PyTorch's name with `_` for `.` |
| U-Net of SDXL | `lora_unet_` + the name in SDXL's own code: `lora_unet_input_blocks_4_1_proj_in` |
| text encoder | `lora_te_text_model_encoder_layers_0_mlp_fc1`; of SDXL `lora_te1_…` and `lora_te2_…` |

After it comes `.lora_down.weight` [r, in], `.lora_up.weight` [out, r] or `.alpha` (no axes).
The change of the weight is alpha / r * up @ down.
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
            f" for another kind of model ({having}), so its file or --family names the wrong one"
        )
    in_ldm = component == "unet" and family.kohya_ldm_names
    return prefix + (ldm_name(layer) if in_ldm else module_name(component, layer)).replace(".", "_")


def kohya_table(layers: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, str]]:
    """{name: (component, layer path)} for the layers of a model, under all names that they can have.

    This must be a table, because an underscore in a name does not show whether it stands for a dot. U-Net layers have
    two names, PyTorch's and the one in SDXL's own code. Trainers of 1.x use the first; trainers of SDXL use either.
    """
    table: dict[str, tuple[str, str]] = {}
    for component, paths in layers.items():
        for path in paths:
            for name in _names(component, path):
                if table.setdefault(name, (component, path)) != (component, path):
                    raise UserError(f"the name {name} could mean {table[name]} or {(component, path)}")
    return table


@lru_cache(maxsize=1)
def any_kohya_table() -> Mapping[str, tuple[str, str]]:
    """The table for all layers of Stable Diffusion 1.x, 2.x and XL."""
    return kohya_table({component: known_layers(component) for component in ADAPTED})


def kohya_tensors(lowrank: LowRank, dtype: np.dtype, base_family: str = DEFAULT_FAMILY) -> dict[str, np.ndarray]:
    """The tensors of a file that every program reads alike.

    All layers are padded with zeros to one rank, and alpha is equal to it. diffusers reads a file wrongly, without a
    warning, if rank or alpha differs between layers. alpha is always fp32: in bfloat16, 257 would become 256.
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
