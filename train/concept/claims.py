"""Training on the slots that are claimed in a registry."""

from __future__ import annotations

from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from blocklora_jax.registry.claims import Registry
from train.concept.config import ConceptConfig


def use_claim(config: ConceptConfig, registry: Registry | None) -> ConceptConfig:
    """`config` with the slots that are claimed for its token; `config` itself if there is no registry.

    Raises: UserError if the token is not registered, or `config` has another partition or other slots than its claim.
    """
    if registry is None:
        return config
    entry, wanted = registry.find(config.token), registry.partition
    flags = f"--blocks {wanted.num_blocks} --axis {wanted.axis} --partition-seed {wanted.seed}"
    adapter = config.adapter
    if not adapter.blocks or wanted != Partition(
        num_blocks=adapter.blocks, axis=adapter.axis, seed=adapter.partition_seed
    ):
        raise UserError(f"all concepts of the registry share one partition: train with {flags}")
    if adapter.slot is not None and tuple(sorted(adapter.slot)) != entry.slots:
        slots = " ".join(map(str, entry.slots))
        raise UserError(f"{config.token} is registered for --slot {slots}, not {' '.join(map(str, adapter.slot))}")
    return config.with_settings(slot=entry.slots)


def check_base(registry: Registry | None, digest: str, model: str) -> None:
    """Raises UserError if the registry is of another base model than the one with `digest`, named `model`."""
    if registry and registry.base_digest not in ("", digest):
        raise UserError(
            f"the registry is of {registry.base_name} ({registry.base_digest[:12]}), and {model} ({digest[:12]}) is"
            " another model: train on that one with --model, or leave out --registry"
        )
