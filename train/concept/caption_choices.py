"""Other forms of captions, one of which is drawn for each row of a step: tags in another order, or only the trigger."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from blocklora_jax.prompts.tokenizer import token_pattern
from train.concept.picture_captions import Caption
from train.concept.prompts import captions_for
from train.concept.settings.concept_name import ConceptName
from train.concept.settings.data import DataSettings

# Orders of a caption's tags that are drawn before training.
_ORDERS = 16


class CaptionChoices(NamedTuple):
    """Which texts may be the captions of the views, as numbers of rows of the encoded texts.

    orders: orders of the tags of each view's caption [n, m]. triggers: the caption of each view that has only the
    trigger [n]. dropout: how often that one is taken.
    """

    orders: Int[np.ndarray, "n m"]
    triggers: Int[np.ndarray, " n"]
    dropout: float

    def draw(self, views: Int[np.ndarray, " b"], seed: int, step: int) -> Int[np.ndarray, " b"]:
        """The numbers of the captions of `views` in a step; a function of the seed and the step."""
        rng = np.random.default_rng((seed, 5, step))
        orders = self.orders[views, rng.integers(self.orders.shape[1], size=len(views))]
        return np.where(rng.random(len(views)) < self.dropout, self.triggers[views], orders)


def caption_choices(
    captions: Sequence[Caption], concept: ConceptName, settings: DataSettings, views: int, seed: int
) -> tuple[list[str], CaptionChoices | None]:
    """The texts of all views, and after them those that may be taken instead; and the choice among them.

    captions: of the pictures. views: how many each picture has. The choice is None if every view has one caption.
    """
    texts = [str(caption) for caption in captions for _ in range(views)]
    if not (settings.shuffle_tags or settings.caption_dropout):
        return texts, None
    numbers: dict[str, int] = {text: number for number, text in reversed(list(enumerate(texts)))}

    def number_of(text: str) -> int:
        if text not in numbers:
            numbers[text] = len(texts)
            texts.append(text)
        return numbers[text]

    templates = captions_for(concept)
    orders, triggers = [], []
    for index, caption in enumerate(captions):
        drawn = [str(caption)] * _ORDERS
        if settings.shuffle_tags:
            rng = np.random.default_rng((seed, 6, index))
            drawn = [str(shuffle_tags(caption, concept, rng)) for _ in range(_ORDERS)]
        orders += [[number_of(text) for text in drawn]] * views
        triggers += [number_of(templates[index % len(templates)])] * views
    return texts, CaptionChoices(np.array(orders), np.array(triggers), settings.caption_dropout)


def shuffle_tags(caption: Caption, concept: ConceptName, rng: np.random.Generator) -> Caption:
    """`caption` with its parts between commas in another order. The prefix and parts with the concept stay in place."""
    tags = [tag.strip() for tag in caption.text.split(",") if tag.strip()]
    named = token_pattern([concept.token]) + ("" if concept.vectors else rf"|\b{re.escape(concept.class_noun)}\b")
    places = [place for place, tag in enumerate(tags) if not re.search(named, tag)]
    if len(places) < 2:
        return caption
    order = rng.permutation(places).tolist()
    moved = dict(zip(places, order, strict=True))
    return caption._replace(text=", ".join(tags[moved.get(place, place)] for place in range(len(tags))))
