"""The prompts of training: words from the configuration, previews, and captions."""

from __future__ import annotations

import re
from itertools import cycle, islice

from blocklora_jax.pocket.prompt_words import words_for
from blocklora_jax.prompts.random_prompts import PromptWords, article
from blocklora_jax.prompts.tokenizer import token_pattern
from train.concept.settings.concept_name import ConceptName
from train.concept.settings.erasure import ErasureSettings

# A noun that replaces a name needs an article at the beginning, after punctuation, and after one of these words.
# Elsewhere, as after "the" or "my smiling", there is an article already, or none is needed.
_BEFORE_ARTICLES = frozenset(
    "and as at behind beside between by for from in into like near of on or over to under versus with".split()
)


def prompt_words(model: str, erasure: ErasureSettings) -> PromptWords:
    """The words that the settings give. For what they do not give, a list that fits the model."""
    default = words_for(model)
    return PromptWords(
        styles=erasure.random_styles or default.styles,
        subjects=erasure.random_subjects or default.subjects,
        scenes=erasure.random_scenes or default.scenes,
    )


def preview_prompts(concept: ConceptName, words: PromptWords) -> tuple[str, ...]:
    """The prompts of the previews: the concept in several scenes and styles, and its class without the concept."""
    trigger = concept.trigger
    if concept.kind == "style":
        pairs = islice(zip(cycle(words.subjects), cycle(words.scenes), strict=True), 7)
        subjects = [f"{article(subject)} {subject} {place}" for subject, place in pairs]
        return (*(f"a {trigger} of {s}" for s in subjects), f"a photo of {subjects[0]}")
    if concept.kind == "scene":
        shown = [f"a photo of {article(s)} {s} in a {trigger}" for s in words.subjects[:7]]
        return (*shown, f"a photo of {article(words.subjects[0])} {words.subjects[0]} {words.scenes[0]}")
    photo, *more_styles = words.styles
    shown = [f"{photo} {trigger}", *(f"{photo} {trigger} {scene}" for scene in words.scenes[:4])]
    shown += [f"{style} {trigger} {words.scenes[0]}" for style in more_styles[:2]]
    return (*shown, f"{photo} {article(concept.class_noun)} {concept.class_noun} {words.scenes[0]}")


def captions_for(concept: ConceptName) -> tuple[str, ...]:
    """Captions for pictures without a caption file, to be used in turn."""
    trigger = concept.trigger
    if concept.kind == "style":
        return (f"a {trigger}",)
    if concept.kind == "scene":
        return (f"a photo of a {trigger}",)
    return (f"a photo of {trigger}", f"a picture of {trigger}")


def class_caption(caption: str, concept: ConceptName) -> str:
    """A caption of the concept, changed into one of its class: the noun replaces the trigger, with the right article.

    Triggers of people and objects are used like names: "a photo of <p1> man" becomes "a photo of a man", and "a <p1>
    owl" becomes "an owl". Scenes and styles keep the article that they have: "in <p1> space" becomes "in space". If the
    caption lacks the class noun, it is inserted.
    """
    noun = concept.class_noun.strip()
    named = concept.kind not in ("scene", "style")
    trigger = rf"(?:\b(an?)\s+)?{token_pattern([concept.token])}(?:\s*{re.escape(noun)}\b)?"

    def replace(match: re.Match[str]) -> str:
        before = caption[: match.start()].split()
        bare = not before or before[-1][-1] in ",.;:!?(" or before[-1].lower() in _BEFORE_ARTICLES
        return f"{article(noun)} {noun}" if match[1] or (named and bare) else noun

    return re.sub(trigger, replace, caption, flags=re.IGNORECASE)
