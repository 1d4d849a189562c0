"""The words of random prompts for models of photographs."""

from __future__ import annotations

from blocklora_jax.prompts.random_prompts import PromptWords

PHOTO_WORDS = PromptWords(
    styles=(
        "a photo of", "a close-up photo of", "a rendering of", "a painting of", "a drawing of", "a sketch of",
        "a watercolor of", "a cartoon of", "a black and white photo of", "a statue of", "an illustration of",
        "a good photo of",
    ),
    subjects=(
        "man", "woman", "boy", "girl", "person", "old man", "old woman", "child", "king", "dog", "cat", "horse", "bird",
        "bear", "rabbit", "fish", "car", "bicycle", "train", "boat", "airplane", "house", "castle", "bridge", "tree",
        "flower", "table", "chair", "sofa", "lamp", "clock", "vase", "cup", "teapot", "bottle", "backpack", "shoe",
        "toy", "robot", "guitar", "cake", "pizza", "mountain", "river", "street",
    ),
    scenes=(
        "on a beach", "in a forest", "in the snow", "in a city", "on a street", "in a kitchen", "in a garden",
        "in a desert", "on a mountain", "at night", "at sunset", "in a museum", "in a cafe", "under water", "in space",
        "by a lake",
    ),
)  # fmt: skip
