"""The basis that `--basis` names: whether it fits the model, and which directions and codewords a concept uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from blocklora_jax.adapters.basis import Codewords, TextBasis, basis_digest
from blocklora_jax.adapters.partition import Partition, slot_from_name
from blocklora_jax.adapters.token_side import natural_norm, owned_mask, whitened_directions
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.probing import basis_file
from train.concept.basis_file import WITHOUT
from train.concept.config import ConceptConfig

# The key of `TokenSideArrays` in a step's parameters, beside the components of the base.
ARRAYS = "token_side"


class TokenSideArrays(NamedTuple):
    """The arrays of a base that the token side reads, fp32. They are the same for all concepts.

    whitened: see `token_side.whitened_directions`. natural: by text encoder, see `token_side.natural_norm`.
    """

    whitened: Float[np.ndarray, "d d"]
    natural: dict[str, Float[Array, ""]]


class OwnDirections(NamedTuple):
    """The part of a basis that a concept uses.

    slots: sorted. owned: which directions the concept owns. codewords: of all slots; None if it uses none.
    """

    slots: tuple[int, ...]
    owned: Bool[np.ndarray, " d"]
    codewords: Codewords | None


def read_text_basis(path: str | None, sd: StableDiffusion, base_digest: str) -> TextBasis | None:
    """The content of the basis file that the setting `basis` names; None if it names none.

    Raises: UserError for a file that cannot be used, or whose number of features is not that of the model's text.
    """
    return None if path is None else basis_file.read_text_basis(path, sd, base_digest, WITHOUT)


def basis_of(config: ConceptConfig, sd: StableDiffusion) -> TextBasis | None:
    """`read_text_basis` of the basis that `config` names. It is read once for a training, and then passed on."""
    return read_text_basis(config.adapter.basis, sd, sd.digest)


def own_slots(config: ConceptConfig) -> tuple[int, ...]:
    """The slots of the configuration; if there are none, the one that the concept's name gives."""
    return config.adapter.slot or (slot_from_name(config.name, config.adapter.blocks),)


def own_directions(config: ConceptConfig, sd: StableDiffusion, basis: TextBasis | None) -> OwnDirections | None:
    """The part of the basis that the concept uses. None without a basis, or if a slot's directions differ by layer.

    Raises: UserError for codewords that are needed but missing, or do not fit the model.
    """
    if basis is None or config.adapter.assignment != "text":
        return None
    partition = Partition(
        num_blocks=config.adapter.blocks, basis=basis_digest(basis.directions), assignment=config.adapter.assignment
    )
    slots, width = partition.check_slots(own_slots(config)), len(basis.directions)
    codewords = basis.codewords_for(config.adapter.blocks) if config.token_side.needs_codewords else None
    if codewords is not None:
        basis_file.check_codewords(codewords, sd, str(config.adapter.basis))
    return OwnDirections(slots, owned_mask(partition.directions("", width, slots), width), codewords)


def step_params(config: ConceptConfig, sd: StableDiffusion, basis: TextBasis | None) -> Mapping[str, Any]:
    """The base's parameters that a step reads; if the token side is on, with its arrays. basis: see `basis_of`."""
    arrays = token_side_arrays(config, sd, basis)
    read = {part: tree for part, tree in sd.params.items() if part not in config.parts_on_host}
    return read if arrays is None else {**read, ARRAYS: jax.device_put(arrays)}


def token_side_arrays(config: ConceptConfig, sd: StableDiffusion, basis: TextBasis | None) -> TokenSideArrays | None:
    """The arrays of the token side; None if it is off.

    Raises: UserError for an old basis file without energies.
    """
    if basis is None or not config.token_side.is_on:
        return None
    basis_file.check_energies(basis, f"{config.adapter.basis}")
    assert basis.energies is not None
    natural = {part: natural_norm(token_table(sd.params, part)) for part in sd.models.text_encoders}
    return TokenSideArrays(whitened_directions(basis.directions, basis.energies), natural)
