"""The words that measured prompts use, and that random prompts of the trainings do not.

Erasure and the token side read random prompts. If the measured prompts had the same words, an adapter that knows only
these words would pass. The packaged codewords were made without the words here too (see
`train.codewords.split_words`). The packaged basis and the packaged negative tokens were made with all words.
"""

from __future__ import annotations

from typing import Any

from blocklora_jax.pocket import world
from blocklora_jax.prompts.random_prompts import PromptWords

PLACES = ("forest", "snow", "night")
COMPANY = ("cat", "house", "car", "woman")
LOOKS = ("sketch", "sepia")

# Settings of `train.concept`: all words of the pocket world's random prompts but these.
TRAINING_WORDS: dict[str, Any] = {
    "random_styles": [f"{world.style_phrase(style)} of" for style in world.TRAIN_STYLES if style not in LOOKS],
    "random_subjects": [name for name in world.TRAIN_CLASSES if name not in COMPANY],
    "random_scenes": [world.scene_phrase(scene) for scene in world.TRAIN_SCENES if scene not in PLACES],
}


def training_words() -> PromptWords:
    """The same as words for the prompts of fits, conversions and the tuning of tokens."""
    return PromptWords(**{name.removeprefix("random_"): tuple(own) for name, own in TRAINING_WORDS.items()})
