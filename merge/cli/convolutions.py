"""Takes 3x3 convolutions out of LoRAs. The joint fit and the conversion cannot change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.lora_layers import kernel_size
from blocklora_jax.layouts.low_rank import LoRATree


def split_convolutions(adapter: Adapter) -> tuple[Adapter, LoRATree]:
    """The adapter without its 3x3 convolutions, and these."""
    unet = adapter.lora.get("unet", {})
    wide = {path: pair for path, pair in unet.items() if kernel_size(path) == 3}
    if not wide:
        return adapter, {}
    rest = {path: pair for path, pair in unet.items() if path not in wide}
    others = {component: layers for component, layers in adapter.lora.items() if component != "unet"}
    return replace(adapter, lora={**({"unet": rest} if rest else {}), **others}), {"unet": wide}


def without_convolutions(adapters: Sequence[Adapter]) -> tuple[list[Adapter], list[LoRATree]]:
    """`split_convolutions` of each adapter. Raises UserError naming all that change nothing but convolutions."""
    split = [split_convolutions(adapter) for adapter in adapters]
    if empty := [adapter.name for adapter, wide in split if wide and not adapter.lora]:
        raise UserError(f"{', '.join(map(repr, empty))} change only 3x3 convolutions: leave these LoRAs out")
    return [adapter for adapter, _ in split], [wide for _, wide in split]


def with_convolutions(adapter: Adapter, wide: LoRATree, scale: float) -> Adapter:
    """`adapter` with the layers `wide`, which were scaled by `scale`."""
    if not wide:
        return adapter
    if scale != adapter.info.scale:
        raise ValueError(f"the scale was {scale}, and is {adapter.info.scale} now")
    unet = {**adapter.lora.get("unet", {}), **wide["unet"]}
    return replace(adapter, lora={**adapter.lora, "unet": unet})
