"""The tensors of a LoRA file for PyTorch programs, under the names that the base model's family has there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from blocklora_jax.adapters.adapter_like import AdapterLike
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.families.recognise import Shape, possible_families
from blocklora_jax.layouts.kohya import kohya_tensors
from blocklora_jax.layouts.low_rank import LowRank
from blocklora_jax.layouts.peft import peft_tensors

LAYOUTS = {"diffusers": peft_tensors, "kohya": kohya_tensors}


def base_family(adapters: Sequence[AdapterLike], family: str | None = None) -> str:
    """The family ("sd1", "sd2", "sdxl") of the adapters' base model; "" if neither they nor `family` state it.

    Raises UserError if `family` differs from what our adapters state, or if LoRAs of other programs are for several
    families.
    """
    # Our adapters state their family. That of another program's LoRA is only concluded from its layers.
    ours = next((a.info for a in adapters if not a.info.origin and a.info.base_family), None)
    if ours and family not in (None, ours.base_family):
        raise UserError(f"family is {family!r} (--family {family}), but {ours.name!r} is for {ours.base_family}")
    if ours or family:
        return ours.base_family if ours else family or ""
    stated = {adapter.info.base_family: adapter.info.name for adapter in adapters if adapter.info.base_family}
    if len(stated) > 1:
        kinds = ", ".join(f"{name!r} for {kind}" for kind, name in sorted(stated.items()))
        raise UserError(f"the adapters are for different families of models: {kinds}; export them separately")
    return next(iter(stated), "")


def lora_tensors(
    adapters: Sequence[AdapterLike], lowrank: LowRank, layout: str, dtype: np.dtype, family: str | None
) -> tuple[str, dict[str, np.ndarray]]:
    """The family ("" if it is not known and makes no difference), and the LoRA's tensors."""
    stated, possible = base_family(adapters, family), _possible_families(lowrank)
    if family and family not in possible and all(adapter.info.origin for adapter in adapters):
        kinds = " or ".join(sorted(possible))
        raise UserError(
            f"family is {family!r} (--family {family}), but only {kinds} has layers with these names and sizes"
        )
    if stated:
        return stated, LAYOUTS[layout](lowrank, dtype, stated)
    variants = [LAYOUTS[layout](lowrank, dtype, name) for name in sorted(possible)]
    if any(_shapes(tensors) != _shapes(variants[0]) for tensors in variants):
        kinds = sorted(possible)
        raise UserError(
            f"the adapters do not say whether they are for {' or '.join(kinds)}, and in the layout {layout!r} their"
            f" layers differ between these: give the base model's family as family=… (--family {'|'.join(kinds)})"
        )
    return (possible.pop() if len(possible) == 1 else ""), variants[0]


def _possible_families(lowrank: LowRank) -> set[str]:
    return possible_families(
        {
            (component, layer): Shape(a.shape[0], b.shape[1])
            for component, layers in lowrank.items()
            for layer, (a, b) in layers.items()
        }
    )


def _shapes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {key: tensor.shape for key, tensor in tensors.items()}
