"""Captions: the style, classes and scene of a picture in words. They never mention the traits of an individual."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from blocklora_jax.pocket.world.specs import CLASSES, PLAIN, SCENES, STYLES, PictureSpec

# {} is replaced by the noun, with a concept's token before it if there is one: "in a <g1> garden".
SCENE_PHRASES = {
    "beach": ("on a {}", "beach"), "forest": ("in a {}", "forest"), "city": ("in a {}", "city"),
    "snow": ("in the {}", "snow"),
    "desert": ("in a {}", "desert"), "night": ("at {}", "night"), "room": ("in a {}", "room"),
    "garden": ("in a {}", "garden"),
    "space": ("in {}", "space"), "volcano": ("by a {}", "volcano"),
}  # fmt: skip
STYLE_NOUNS = {
    "photo": ("photo", "picture"), "sketch": ("sketch", "drawing"), "watercolour": ("watercolour", "watercolor"),
    "blueprint": ("blueprint",), "neon": ("neon sign",), "sepia": ("sepia photo",), "mosaic": ("mosaic",),
    "poster": ("poster",),
    "stained glass": ("stained glass window",),
}  # fmt: skip
TEMPLATES = ("{style} of {subjects}{place}", "{subjects}{place}, {style}", "{subjects}{place}")
assert set(SCENE_PHRASES) == set(SCENES) and set(STYLE_NOUNS) == set(STYLES)

SPARE_WORDS = """
    red orange yellow lime green teal blue purple pink brown tan white grey gray black gold silver dark light bright
    pale colourful person people child kid baby lady guy friend king queen doctor chef pirate sailor farmer wizard
    astronaut police animal puppy kitten horse cow sheep pig fish frog duck owl fox wolf lion tiger mouse monkey panda
    bear bunny object toy ball book chair table bed sofa cup plate bottle box bag hat cap crown scarf tie shirt dress
    coat shoes glasses flower tree plant apple cake bike bus truck train plane ship balloon clock phone guitar piano
    vase tower bridge castle sky sun moon stars cloud clouds rain wind fire water river lake sea ocean mountain hill
    field farm park street road town village school kitchen window door wall floor roof grass sand ice cave island
    jungle meadow market portrait painting artwork art illustration cartoon poster print image icon logo style styled
    oil pastel ink pencil paper pixel comic retro vintage modern abstract
    wearing holding riding sitting standing smiling looking sleeping running jumping flying playing eating reading
    happy sad angry sleepy funny cute small big large little tall short round old young new beautiful nice good
    one two three four many some both with without near next to beside behind front under over between left right side
    top of in on at by the a an and from for is are his her their it this that very no not my your
    close up full view day morning evening sunset winter summer spring autumn background plain
"""


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def style_phrase(style: str, token: str = "", noun: str | None = None) -> str:
    """The words for a style, such as "a sketch", or with a concept's token "a <m1> mosaic"."""
    noun = noun or STYLE_NOUNS[style][0]
    return f"a {token} {noun}" if token else _article(noun)


def scene_phrase(scene: str, token: str = "") -> str:
    """The words for a scene with their preposition, such as "on a beach" or "in a <g1> garden"; "" for no scene."""
    if scene == PLAIN:
        return ""
    pattern, noun = SCENE_PHRASES[scene]
    return pattern.format(f"{token} {noun}".strip())


def subject_phrase(class_name: str, token: str = "") -> str:
    """The words for a subject: "a man", or with a concept's token "<p1> man"."""
    return f"{token} {class_name}" if token else _article(class_name)


def join_subjects(phrases: Sequence[str]) -> str:
    """The phrases as a list in English: "a man, a dog and a car"."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))


def prompt(subjects: Sequence[str], scene: str = "", style: str = "a photo", template: str = TEMPLATES[0]) -> str:
    """A prompt made of phrases.

    prompt(["<p1> man", "a dog"], "on a beach") = "a photo of <p1> man and a dog on a beach".
    `scene` may also be a name in `SCENES`, or "plain"; `style` may also be a name in `STYLES`.
    """
    place = scene_phrase(scene) if scene in SCENE_PHRASES or scene == PLAIN else scene
    look = style_phrase(style) if style in STYLE_NOUNS else style
    if not subjects:
        noun_only = re.sub(r"^\w+ (?=a |the )", "", place)
        return f"{look} of {noun_only}" if place else look
    return template.format(style=look, subjects=join_subjects(subjects), place=f" {place}" if place else "")


def caption(spec: PictureSpec, rng: np.random.Generator | None = None) -> str:
    """The caption of a picture: "a sketch of a man and a dog in a forest". With `rng` the words vary a little."""
    template, noun = TEMPLATES[0], STYLE_NOUNS[spec.style][0]
    if rng is not None and spec.subjects:
        u, v = rng.random(2)
        noun = STYLE_NOUNS[spec.style][int(v * len(STYLE_NOUNS[spec.style]))] if v > 0.8 else noun
        if u > 0.85:
            # Only captions of photos may leave out the style.
            template = TEMPLATES[2] if spec.style == "photo" else TEMPLATES[1]
    subjects = [subject_phrase(s.class_name) for s in spec.subjects]
    return prompt(subjects, spec.scene, _article(noun), template)


def vocabulary() -> list[str]:
    """All words and marks that captions can contain, and common words that users may type, sorted, in lower case."""
    fixed = " ".join([*CLASSES, *SCENES, *STYLES, *(n for nouns in STYLE_NOUNS.values() for n in nouns)])
    patterns = " ".join(pattern.format("") for pattern, _ in SCENE_PHRASES.values())
    return sorted({",", ".", *f"{fixed} {patterns} a an of and {SPARE_WORDS}".split()})
