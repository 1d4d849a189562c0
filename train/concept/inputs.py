"""Checks of what concepts are trained on, before the first of them trains."""

from __future__ import annotations

from collections.abc import Iterable

from blocklora_jax.adapters.orthogonal import check_slot
from blocklora_jax.adapters.targets import select_kernels
from blocklora_jax.pipeline import StableDiffusion
from train.concept.config import ConceptConfig
from train.concept.data import captioned_pictures, find_other_pictures


def check_inputs(configs: Iterable[ConceptConfig], sd: StableDiffusion) -> None:
    """Look for what the training of `configs` would be refused for, without opening a picture.

    Of many concepts, some train hours after others. What is wrong with the last is found before the first begins.

    Raises: UserError for a folder without pictures, captions or masks that cannot be used, or a slot that the model's
        layers have no room for.
    """
    for config in configs:
        captioned_pictures(config, sd, quiet=True)
        find_other_pictures(config)
        adapter = config.adapter
        if adapter.down == "orthogonal" and adapter.slot:
            check_slot(select_kernels(sd.params, adapter.layers), adapter.slot[0], adapter.rank)
