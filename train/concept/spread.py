"""Concepts that train in one program, spread over any number of devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from train.concept.batch import Batch
from train.concept.padding import pad_batch
from train.concept.state import TrainState, stack
from train.engine.grid import choose_groups, repeat_last, round_up
from train.engine.parallel import Step, copy_to_devices, map_step, place_batch, place_state, take_concepts


class Spread(NamedTuple):
    """Which devices train what.

    concepts: their number. groups: of devices; the concepts are divided among them, and the devices of a group share
    the rows of its concepts. Where the concepts cannot be divided evenly, the last one is trained several times. The
    copies are thrown away. accumulate: the number of parts in which each device takes its rows.
    """

    devices: tuple[jax.Device, ...]
    concepts: int
    groups: int
    mapper: str
    accumulate: int = 1

    @property
    def row_devices(self) -> int:
        """The number of devices that share the rows of a concept."""
        return len(self.devices) // self.groups

    def map_step(self, step: Step) -> Step:
        """`step(state, batch, params)` of one concept, for what the methods below give."""
        return map_step(step, self.devices, self.mapper, self.groups)

    def place_states(self, states: Sequence[TrainState]) -> TrainState:
        """The states of the concepts as one, on a leading axis, placed on the devices."""
        return place_state(stack(repeat_last(states, self.groups)), self.devices, self.groups)

    def place_batches(self, batches: Sequence[Batch]) -> Batch:
        """NumPy batches of the concepts as one, on a leading axis, with as many rows as the devices can share."""
        padded = repeat_last([pad_batch(batch, self.row_devices * self.accumulate) for batch in batches], self.groups)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
        # pmap splits the rows itself.
        return stacked if self.mapper == "pmap" else place_batch(stacked, self.devices, self.groups)

    def place_params(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """`params` on every device."""
        return params if self.mapper == "pmap" else copy_to_devices(params, self.devices, self.groups)

    def without_copies(self, state: TrainState) -> TrainState:
        """`state` of the concepts alone, as it is saved, so that another number of devices can continue it."""
        if self._is_even:
            return state
        return take_concepts(state, range(self.concepts), self.devices, self.groups, whole=True)

    def with_copies(self, state: TrainState) -> TrainState:
        """The state of which `without_copies` gave `state`."""
        chosen = repeat_last(range(self.concepts), self.groups)
        return state if self._is_even else take_concepts(state, chosen, self.devices, self.groups)

    @property
    def _is_even(self) -> bool:
        return self.concepts % self.groups == 0

    def padding_note(self, rows: int) -> str:
        """A line that says how many of a concept's `rows` are padding; empty if none are."""
        padded = round_up(rows, self.row_devices)
        if padded == rows:
            return ""
        return (
            f"{self.row_devices} devices share --batch {rows}: {padded - rows} of {padded} rows are padding, which"
            f" counts for nothing; --batch {padded} takes as long"
        )


def spread_over(
    devices: Sequence[jax.Device], concepts: int, rows: Sequence[int], mapper: str, accumulate: int = 1
) -> Spread:
    """The best way to spread `concepts` with these numbers of rows (the concept's, random ones) over `devices`.

    rows: of one part of a batch that is taken in `accumulate` parts.
    """
    groups = 1 if mapper == "pmap" else choose_groups(len(devices), concepts, rows)
    return Spread(tuple(devices), concepts, groups, mapper, accumulate)
