"""Training on the slots that are claimed in a registry."""

from __future__ import annotations

from blocklora_jax.adapters.basis import TextBasis, basis_digest, codewords_digest
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
    adapter = config.adapter
    # `check_basis` compares the bases later, when the base is loaded.
    same = bool(adapter.basis) == bool(wanted.basis) and adapter.assignment == wanted.assignment
    cut = (adapter.blocks, adapter.axis, adapter.partition_seed)
    if not same or cut != (wanted.num_blocks, wanted.axis, wanted.seed):
        raise UserError(f"all concepts of the registry share one partition: train with {registry.training_flags()}")
    if adapter.slot is not None and tuple(sorted(adapter.slot)) != entry.slots:
        slots = " ".join(map(str, entry.slots))
        raise UserError(f"{config.token} is registered for --slot {slots}, not {' '.join(map(str, adapter.slot))}")
    return config.with_settings(slot=entry.slots)


def check_base(registry: Registry | None, digest: str, model: str) -> None:
    """Raises UserError if the registry is for another base model than the one with `digest`, named `model`."""
    if registry and registry.base_digest not in ("", digest):
        raise UserError(
            f"the registry is for {registry.base_name} ({registry.base_digest[:12]}), but {model} ({digest[:12]}) is"
            " another model: choose the registry's model with --model, or leave out --registry"
        )


def check_basis(registry: Registry | None, config: ConceptConfig, basis: TextBasis | None) -> None:
    """Raises UserError if the registry has another basis or other codewords than `config` trains with.

    basis: the one that `config` names, see `basis_of`.
    """
    if registry is None or not registry.partition.basis:
        return
    digest = "" if basis is None else basis_digest(basis.directions)
    if digest != registry.partition.basis:
        raise UserError(
            f"the registry is for the basis {registry.partition.basis}, but --basis {config.adapter.basis} is"
            f" {digest}: use the file that the others train with"
        )
    if basis is None or not (registry.codewords and config.token_side.needs_codewords):
        return
    if (digest := codewords_digest(basis.codewords_for(config.adapter.blocks))) != registry.codewords:
        raise UserError(
            f"the registry is for the codewords {registry.codewords},"
            f" but those in --basis {config.adapter.basis} are {digest}:"
            " use the file that the others train with"
        )
