"""The words of random prompts for a model: those of the pocket world, or those for photographs."""

from __future__ import annotations

from blocklora_jax.pocket import world
from blocklora_jax.prompts.photo_words import PHOTO_WORDS
from blocklora_jax.prompts.random_prompts import PromptWords


def words_for(model: str) -> PromptWords:
    """The words that fit a model: those of the pocket world for "pocket", else those for photographs."""
    if model != "pocket":
        return PHOTO_WORDS
    return PromptWords(
        styles=tuple(f"{world.style_phrase(style)} of" for style in world.TRAIN_STYLES),
        subjects=tuple(world.TRAIN_CLASSES),
        scenes=tuple(world.scene_phrase(scene) for scene in world.TRAIN_SCENES),
    )
