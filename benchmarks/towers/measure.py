"""One case: a text encoder's basis, codewords of a few slots, and how well they hold on words held out."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.towers.speech import ordinary_energies, ratios_by_position
from benchmarks.towers.spectrum import prompt_spectrum, share_counts
from benchmarks.towers.tower import Tower
from blocklora_jax.adapters.token_side import natural_norm, whitened_directions
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from train.codeword_settings import CodewordSettings
from train.codewords import codeword_prompts, first_tokens, optimise_codewords, split_words

_PART = "text_encoder"


@dataclass(frozen=True)
class Plan:
    """How much is measured. basis: prompts of the basis. used, held_out: prompts with a token."""

    blocks: tuple[int, ...] = (16, 64)
    slots: int = 4
    basis: int = 64
    used: int = 64
    held_out: int = 8
    settings: CodewordSettings = CodewordSettings()


def measure_case(tower: Tower, plan: Plan) -> dict[str, Any]:
    """The figures of one text encoder: its spectrum, and for each K those of `plan.slots` codewords."""
    began = time.process_time()
    basis, energies = prompt_spectrum(tower, PHOTO_WORDS, plan.basis)
    basis_seconds = time.process_time() - began
    whitened, (used, held_out) = whitened_directions(basis, energies), split_words(PHOTO_WORDS)
    prompts = (codeword_prompts(used, plan.used, 0), codeword_prompts(held_out, plan.held_out, 1))
    ordinary = ordinary_energies(tower, whitened, prompts[1])
    return {
        "directions": len(energies),
        "shares": share_counts(energies),
        "strongest": float(energies.max() / energies.sum()),
        "basis_prompts": plan.basis,
        "basis_seconds": basis_seconds,
        "ordinary_energy": {"mean": float(ordinary.mean()), "median": float(np.median(ordinary))},
        "seconds_per_codeword": _seconds_per_codeword(tower, plan, whitened, prompts[0]),
        "blocks": {str(count): measure_blocks(tower, plan, whitened, count, *prompts) for count in plan.blocks},
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measure_blocks(
    tower: Tower,
    plan: Plan,
    whitened: Float[np.ndarray, "d d"],
    num_blocks: int,
    used: Sequence[str],
    held_out: Sequence[str],
) -> dict[str, Any]:
    """own / others of random tokens and of codewords, for slots spread over all K."""
    slots = spread_slots(num_blocks, plan.slots)
    model, settings = tower.as_model, plan.settings
    table = np.asarray(token_table(tower.params, _PART))
    start = table.mean(0) + table.std() * np.asarray(first_tokens(model, np.array(slots), settings)[_PART])
    made = optimise_codewords(model, whitened, num_blocks, used, settings, only=slots)[_PART]
    # Files hold them so.
    made = np.asarray(made, np.float16).astype(np.float32)
    ratios = {
        "before": ratios_by_position(tower, start.astype(np.float32), slots, num_blocks, whitened, held_out),
        "after": ratios_by_position(tower, made, slots, num_blocks, whitened, held_out),
    }
    return {
        "slots": list(slots),
        **{name: {place: _rounded(values) for place, values in each.items()} for name, each in ratios.items()},
        "length": _rounded(np.linalg.norm(made, axis=-1).mean(1) / float(natural_norm(table))),
    }


def spread_slots(num_blocks: int, count: int) -> tuple[int, ...]:
    """`count` of K slots, evenly spread.

    >>> spread_slots(16, 4)
    (0, 4, 8, 12)
    """
    count = min(count, num_blocks)
    return tuple(index * num_blocks // count for index in range(count))


def _seconds_per_codeword(
    tower: Tower, plan: Plan, whitened: Float[np.ndarray, "d d"], prompts: Sequence[str]
) -> float:
    """Processor seconds, all cores together, without compiling."""

    def seconds(steps: int) -> float:
        began = time.process_time()
        slots = spread_slots(plan.blocks[0], plan.slots)
        settings = replace(plan.settings, steps=steps)
        optimise_codewords(tower.as_model, whitened, plan.blocks[0], prompts, settings, only=slots)
        return time.process_time() - began

    # The first call fills the cache of compiled programs.
    few, more = 1, 4
    seconds(few)
    step = (seconds(more) - seconds(few)) / (more - few)
    return step * plan.settings.steps / min(plan.slots, plan.settings.chunk)


def _rounded(values: Float[np.ndarray, " s"]) -> list[float | None]:
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]
