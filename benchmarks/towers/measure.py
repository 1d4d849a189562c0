"""One case: a text encoder's basis, codewords of a few slots, and how well they hold on words held out."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.towers.spectrum import prompt_spectrum, share_counts, text_spectrum
from benchmarks.towers.speech import ordinary_energies, own_over_others, ratios_by_position
from benchmarks.towers.tower import Tower
from blocklora_jax.adapters.token_side import natural_norm, whitened_directions
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from blocklora_jax.prompts.random_prompts import PromptWords
from train.codeword_settings import CodewordSettings
from train.codewords import codeword_prompts, first_tokens, optimise_codewords, slot_masks, split_words

_PART = "text_encoder"


@dataclass(frozen=True)
class Plan:
    """How much is measured. basis: prompts of the basis. used, held_out: prompts with a token.

    sentences: what the basis is made of instead of prompts. words: of all prompts.
    """

    blocks: tuple[int, ...] = (16, 64)
    slots: int = 4
    basis: int = 64
    used: int = 64
    held_out: int = 8
    settings: CodewordSettings = CodewordSettings()
    sentences: tuple[str, ...] = ()
    words: PromptWords = PHOTO_WORDS


def measure_case(tower: Tower, plan: Plan) -> dict[str, Any]:
    """The figures of one text encoder: its spectrum, and for each K those of `plan.slots` codewords."""
    began = time.process_time()
    if plan.sentences:
        basis, energies = text_spectrum(tower, tower.tokenizer.encode(plan.sentences))
    else:
        basis, energies = prompt_spectrum(tower, plan.words, plan.basis)
    basis_seconds = time.process_time() - began
    whitened, (used, held_out) = whitened_directions(basis, energies), split_words(plan.words)
    prompts = (codeword_prompts(used, plan.used, 0), codeword_prompts(held_out, plan.held_out, 1))
    ordinary = ordinary_energies(tower, whitened, prompts[1])
    found = {
        "directions": len(energies),
        "shares": share_counts(energies),
        "strongest": float(energies.max() / energies.sum()),
        "basis_texts": len(plan.sentences) or plan.basis,
        "ordinary": {"mean": float(ordinary.mean()), "median": float(np.median(ordinary))},
        "basis_seconds": basis_seconds,
        "blocks": {str(count): measure_blocks(tower, plan, whitened, count, *prompts) for count in plan.blocks},
    }
    for count, blocks in found["blocks"].items():
        masks = slot_masks(int(count), len(energies))[blocks["slots"]]
        blocks["ordinary"] = _rounded(np.array([own_over_others(ordinary, mask) for mask in masks]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**found, "steps": plan.settings.steps, "peak_gib": peak, "seconds": time.process_time() - began}


def measure_blocks(
    tower: Tower,
    plan: Plan,
    whitened: Float[np.ndarray, "d d"],
    num_blocks: int,
    used: Sequence[str],
    held_out: Sequence[str],
) -> dict[str, Any]:
    """own / others of random tokens and of codewords, for slots spread over all K.

    The processor's seconds, of all cores together, include compiling at the first K.
    """
    slots = spread_slots(num_blocks, plan.slots)
    settings = plan.settings
    table = np.asarray(token_table(tower.params, _PART))
    start = table.mean(0) + table.std() * np.asarray(first_tokens(tower, np.array(slots), settings)[_PART])
    began = time.process_time()
    made = optimise_codewords(tower, whitened, num_blocks, used, settings, only=slots)[_PART]
    seconds = (time.process_time() - began) / len(slots)
    # Files hold them so.
    made = np.asarray(made, np.float16).astype(np.float32)
    ratios = {
        "before": ratios_by_position(tower, start.astype(np.float32), slots, num_blocks, whitened, held_out),
        "after": ratios_by_position(tower, made, slots, num_blocks, whitened, held_out),
    }
    return {
        "slots": list(slots),
        "seconds_per_codeword": seconds,
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


def _rounded(values: Float[np.ndarray, " s"]) -> list[float | None]:
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]
