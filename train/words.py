"""The words of random prompts, for models of photographs and for the pocket world."""

from __future__ import annotations

from itertools import cycle, islice

from blocklora_jax.pocket import world
from blocklora_jax.random_prompts import PromptWords
from train.config import ConceptConfig

PHOTO_WORDS = PromptWords(
    styles=(
        "a photo of", "a close-up photo of", "a rendering of", "a painting of", "a drawing of", "a sketch of",
        "a watercolor of", "a cartoon of", "a black and white photo of", "a statue of", "an illustration of", "a good photo of",
    ),
    subjects=(
        "man", "woman", "boy", "girl", "person", "old man", "old woman", "child", "king", "dog", "cat", "horse", "bird",
        "bear", "rabbit", "fish", "car", "bicycle", "train", "boat", "airplane", "house", "castle", "bridge", "tree",
        "flower", "table", "chair", "sofa", "lamp", "clock", "vase", "cup", "teapot", "bottle", "backpack", "shoe", "toy",
        "robot", "guitar", "cake", "pizza", "mountain", "river", "street",
    ),
    scenes=(
        "on a beach", "in a forest", "in the snow", "in a city", "on a street", "in a kitchen", "in a garden", "in a desert",
        "on a mountain", "at night", "at sunset", "in a museum", "in a cafe", "under water", "in space", "by a lake",
    ),
)  # fmt: skip


def prompt_words(config: ConceptConfig) -> PromptWords:
    """What the configuration says, completed by a list that fits the model."""
    default = _pocket_words() if config.model == "pocket" else PHOTO_WORDS
    return PromptWords(
        styles=config.random_styles or default.styles,
        subjects=config.random_subjects or default.subjects,
        scenes=config.random_scenes or default.scenes,
    )


def preview_prompts(config: ConceptConfig) -> tuple[str, ...]:
    """What the previews show: the concept in several scenes and styles, and its class without it."""
    if config.preview_prompts:
        return config.preview_prompts
    words, trigger = prompt_words(config), config.trigger
    if config.kind == "style":
        pairs = islice(zip(cycle(words.subjects), cycle(words.scenes), strict=True), 7)
        subjects = [f"{_article(subject)} {subject} {place}" for subject, place in pairs]
        return (*(f"a {trigger} of {s}" for s in subjects), f"a photo of {subjects[0]}")
    if config.kind == "scene":
        shown = [f"a photo of {_article(s)} {s} in a {trigger}" for s in words.subjects[:7]]
        return (*shown, f"a photo of {_article(words.subjects[0])} {words.subjects[0]} {words.scenes[0]}")
    photo, *others = words.styles
    shown = [f"{photo} {trigger}", *(f"{photo} {trigger} {scene}" for scene in words.scenes[:4])]
    shown += [f"{style} {trigger} {words.scenes[0]}" for style in others[:2]]
    return (*shown, f"{photo} {_article(config.class_noun)} {config.class_noun} {words.scenes[0]}")


def captions_for(config: ConceptConfig) -> tuple[str, ...]:
    """Captions for pictures that come without one, in turn."""
    trigger = config.trigger
    if config.kind == "style":
        return (f"a {trigger}",)
    if config.kind == "scene":
        return (f"a photo of a {trigger}",)
    return (f"a photo of {trigger}", f"a picture of {trigger}")


def _pocket_words() -> PromptWords:
    return PromptWords(
        styles=tuple(f"{world.style_phrase(style)} of" for style in world.TRAIN_STYLES),
        subjects=tuple(world.TRAIN_CLASSES),
        scenes=tuple(world.scene_phrase(scene) for scene in world.TRAIN_SCENES),
    )


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"
