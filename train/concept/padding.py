"""Fills up a batch, so that any number of devices can share it. The rows that are added count for nothing."""

from __future__ import annotations

import jax
import numpy as np

from blocklora_jax.adapters.row_weights import padding_weights
from train.concept.batch import Batch
from train.engine.grid import round_up


def pad_batch(batch: Batch, devices: int) -> Batch:
    """`batch` with rows repeated until `devices` can share both sorts of rows evenly. The copies have the weight 0.

    batch: NumPy arrays. The same object is returned if nothing is missing.
    """
    batch = _pad(batch, len(batch.row), devices, "row_weights", random=False)
    return _pad(batch, len(batch.random_row), devices, "random_row_weights", random=True)


def _pad(batch: Batch, rows: int, devices: int, weights: str, random: bool) -> Batch:
    """`batch` with one sort of rows filled up: the concept's, or the random ones."""
    padded = round_up(rows, devices)
    if padded == rows:
        return batch
    # Copies of real rows, and not zeros: a weight of 0 does not make up for infinity.
    chosen = np.arange(padded) % rows
    fields = {name: value for name, value in batch._asdict().items() if name.startswith("random_") == random}
    longer = jax.tree.map(lambda x: x[chosen], fields)
    return batch._replace(**longer | {weights: padding_weights(rows, padded)})
