"""Guesses from tags and words what calls a concept, and whether it is a person, an object, a scene or a style."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import parse_json
from blocklora_jax.io.printing import plain_text

# Words of each kind, as they occur in tags, triggers and names. The first kind that has a word of the text is taken.
_KIND_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "style",
        frozenset("style styles artstyle aesthetic lineart watercolor watercolour illustration painting".split()),
    ),
    (
        "person",
        frozenset(
            "person character celebrity actor actress face 1girl 1boy girl boy woman man lady guy female male".split()
        ),
    ),
    (
        "scene",
        frozenset(
            "scene scenery background backgrounds landscape building buildings interior city room beach forest street"
            " castle village".split()
        ),
    ),
    (
        "object",
        frozenset(
            "object objects clothing vehicle vehicles tool weapon animal dog cat car dress hat toy bag chair".split()
        ),
    ),
)
# Nouns that can be a class noun.
_NOUNS = frozenset(
    "woman man girl boy person dog cat car dress hat toy bag chair house building city room forest beach style".split()
)
# Frequent tags of pictures that never call one concept.
_COMMON_TAGS = frozenset(
    "1girl 1boy 2girls solo female male looking at viewer simple background white background realistic photo"
    " masterpiece best quality highres smile standing sitting portrait no humans".split()
    + ["looking at viewer", "simple background", "white background", "best quality", "no humans", "upper body"]
)
# Larger counts, which floats may not hold, and NaN are left out.
_MOST_PICTURES = 1e12
_FOLDER = re.compile(r"\d+_(.+)")


class Dataset(NamedTuple):
    """What a trainer's header says of its pictures. folders: the words after "10_". tags: the most frequent first."""

    folders: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everywhere: tuple[str, ...] = ()


def read_dataset(metadata: Mapping[str, str]) -> Dataset:
    """The pictures' folders and tags from kohya's header, `ss_tag_frequency` and `ss_dataset_dirs`.

    >>> read_dataset({"ss_tag_frequency": '{"10_ohwx woman": {"ohwx woman": 20, "smile": 7}}'})
    Dataset(folders=('ohwx woman',), tags=('ohwx woman', 'smile'), everywhere=('ohwx woman',))
    """
    frequencies = _mapping(metadata.get("ss_tag_frequency"))
    folders = dict.fromkeys([*frequencies, *_mapping(metadata.get("ss_dataset_dirs"))])
    counts: dict[str, float] = {}
    for tags in frequencies.values():
        for tag, count in tags.items() if isinstance(tags, Mapping) else ():
            if isinstance(count, (int, float)) and abs(count) < _MOST_PICTURES and (word := plain_text(tag)):
                counts[word] = counts.get(word, 0) + count
    ranked = sorted(counts, key=lambda tag: -counts[tag])
    everywhere = [tag for tag in ranked if counts[tag] >= 0.9 * counts[ranked[0]] and tag.lower() not in _COMMON_TAGS]
    names = [plain_text(match[1]) for folder in folders if (match := _FOLDER.fullmatch(folder))]
    return Dataset(tuple(names), tuple(ranked[:20]), tuple(everywhere[:5]))


def guess_words(stated: Sequence[str], dataset: Dataset) -> list[str]:
    """The words that may call the concept, the best guess first.

    stated: words that the author gave. They come before those that the pictures have.
    """
    tags = [tag for tag in dataset.everywhere if tag not in dataset.folders]
    candidates = [*stated, *dataset.folders, *(tags if not dataset.folders else tags[:2])]
    usable = [word for word in candidates if word and word.lower() not in _COMMON_TAGS]
    return list(dict.fromkeys(usable))[:10]


def guess_kind(texts: Iterable[str]) -> str:
    """The kind (person, object, scene, style) of which the first text with a known word has one; "" if none has.

    >>> guess_kind(["ohwx woman in watercolor"]), guess_kind(["anime_style_v2"]), guess_kind(["xyz"])
    ('style', 'style', '')
    """
    for text in texts:
        words = _words(text)
        for kind, known in _KIND_WORDS:
            if words & known:
                return kind
    return ""


def guess_noun(texts: Iterable[str]) -> str:
    """The class noun: the first word of the texts that is a known noun; "" if there is none.

    >>> guess_noun(["ohwx woman"])
    'woman'
    """
    words = (word for text in texts for word in re.findall(r"[a-z]+", text.lower()))
    return next((word for word in words if word in _NOUNS), "")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower().replace("_", " ")))


def _mapping(text: str | None) -> Mapping[str, object]:
    try:
        value = parse_json(text or "{}", "the header", infinity=True)
    except UserError:
        return {}
    return value if isinstance(value, Mapping) else {}
