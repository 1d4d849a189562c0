"""Slots of concepts that train together. Concepts without a slot get a free one. No slot is used twice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from blocklora_jax.errors import UserError
from train.concept.config import ConceptConfig


def give_slots(configs: Sequence[ConceptConfig]) -> list[ConceptConfig]:
    """`configs`, in which those without a slot get the lowest free one. Without blocks there are no slots to give.

    Raises: UserError if there are more concepts than slots.
    """
    blocks, orthogonal = configs[0].adapter.blocks, configs[0].adapter.down == "orthogonal"
    if not blocks and not orthogonal:
        return list(configs)
    taken = {slot for config in configs for slot in config.adapter.slot or ()}
    # The number of rows of a basis depends on the model. `check_inputs` checks that there are enough.
    slots = itertools.count() if orthogonal else range(blocks)
    free = iter(slot for slot in slots if slot not in taken)
    given = []
    for config in configs:
        slot = config.adapter.slot or tuple([s for s in [next(free, None)] if s is not None])
        if not slot:
            raise UserError(
                f"{len(configs)} concepts do not fit in {blocks} slots: use --blocks {len(configs)} or more, and a"
                " basis file that was made with as many, if you use one"
            )
        given.append(config.with_settings(slot=slot))
    return given


def check_apart(configs: Sequence[ConceptConfig]) -> None:
    """Raises: UserError for two concepts that can never be merged: with the same token, or with a common slot."""
    for one, other in itertools.combinations(configs, 2):
        names = f"{one.out.name} and {other.out.name}"
        if one.token == other.token:
            raise UserError(
                f"{names} both have the token {one.token} and could never be merged: give one of them another `token`"
            )
        has_slots = one.adapter.blocks or one.adapter.down == "orthogonal"
        if has_slots and (shared := sorted(set(one.adapter.slot or ()) & set(other.adapter.slot or ()))):
            raise UserError(
                f"{names} both have slot {', '.join(map(str, shared))} and could never be merged: give one of them"
                " another `slot`, or leave `slot` out to get a free one"
            )
