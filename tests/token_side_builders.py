"""A basis of a small model with energies and codewords, and settings that use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from concept_builders import make_config

from blocklora_jax.adapters.basis import TextBasis, save_basis
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.layouts.token_tables import token_table
from blocklora_jax.pipeline import StableDiffusion
from blocklora_jax.prompts.random_prompts import PromptWords
from train.concept.config import ConceptConfig
from train.text_basis import energies_along, principal_directions, text_moments

BLOCKS, PROMPTS = 4, 20
WORDS = PromptWords(
    styles=("a photo of", "a drawing of"), subjects=("dog", "owl"), scenes=("in the snow", "on the beach")
)


def random_codewords(sd: StableDiffusion, blocks: int = BLOCKS, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens as large as those of the tiny model, rounded to fp16."""
    rng = np.random.default_rng(seed)
    widths = {part: token_table(sd.params, part).shape[1] for part in sd.models.text_encoders}
    drawn = {part: rng.normal(0, 0.1, (blocks, 2, width)) for part, width in widths.items()}
    return {part: tokens.astype(np.float16).astype(np.float32) for part, tokens in drawn.items()}


def make_basis(sd: StableDiffusion) -> TextBasis:
    moments = text_moments(sd, WORDS, PROMPTS)
    basis = principal_directions(moments)[1].astype(np.float32)
    energies = energies_along(basis, moments) / (PROMPTS * sd.tokenizer.encode([""]).shape[-1])
    return TextBasis(basis, energies.astype(np.float32), {BLOCKS: random_codewords(sd)})


def write_basis(path: Path, sd: StableDiffusion, basis: TextBasis | None = None) -> Path:
    save_basis(path, basis or make_basis(sd), params_digest(sd.params))
    return path


def token_side_settings(basis: Path | str, **changes: Any) -> dict[str, Any]:
    """Settings with the token side and everything that it needs."""
    return {
        "basis": str(basis), "assignment": "text", "token_side": 0.5, "token_side_margin": 3.0, "token_norm_limit": 1.5,
        "token_start": "codeword", "negatives_from": "codewords", "random_batch": 2, **changes,
    }  # fmt: skip


def token_side_config(basis: Path | str, **changes: Any) -> ConceptConfig:
    return make_config(**token_side_settings(basis, **changes))
