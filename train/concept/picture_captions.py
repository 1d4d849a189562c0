"""The caption of each picture: written in a file, or a template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable, visible_text
from blocklora_jax.prompts.tokenizer import token_pattern
from train.concept.captions import read_captions
from train.concept.metadata_captions import METADATA, read_metadata
from train.concept.picture_files import PictureFiles
from train.concept.prompts import captions_for
from train.concept.settings.concept_name import ConceptName

# Stands for the concept's trigger in a prefix.
_TRIGGER = "{trigger}"


class Caption(NamedTuple):
    """text: of the caption, after `prefix`. prefix: empty, or words and a space."""

    text: str
    prefix: str = ""

    def __str__(self) -> str:
        return (self.prefix + self.text).strip()


class _Written(NamedTuple):
    """where: the file, and the picture if the file has several captions; for messages."""

    text: str
    where: str


def written_captions(files: Sequence[PictureFiles]) -> list[_Written | None]:
    """The text of each picture's .txt file or line of metadata.jsonl, and where it is written; None without one.

    files: of one folder.

    Raises: UserError for captions that cannot be read, and pictures with both sorts of captions.
    """
    paths = [each.caption for each in files if each.caption]
    texts = dict(zip(paths, read_captions(paths), strict=True))
    folder = files[0].path.parent
    lines = read_metadata(folder, [each.path for each in files])
    if both := [(each.path, each.caption) for each in files if each.caption and each.path in lines]:
        picture, caption = (printable(path.name) for path in both[0])
        raise UserError(f"{printable(str(folder))}: {picture} has captions in {caption} and in {METADATA}: keep one")

    def find(each: PictureFiles) -> _Written | None:
        if each.caption:
            return _Written(texts[each.caption], printable(str(each.caption)))
        if each.path in lines:
            return _Written(lines[each.path], f"{printable(str(folder / METADATA))}, {printable(each.path.name)}")
        return None

    return [find(each) for each in files]


def picture_captions(files: Sequence[PictureFiles], concept: ConceptName, prefix: str | None) -> list[Caption]:
    """The caption of each picture. Pictures without a written one get the templates in turn.

    prefix: words before every written caption; "{trigger}" in it stands for the concept's trigger.

    Raises: UserError as `written_captions` does, and for a caption without the concept's token.
    """
    templates, before = captions_for(concept), visible_text((prefix or "").replace(_TRIGGER, concept.trigger))
    return [
        _with_prefix(written, before, concept) if written else Caption(templates[index % len(templates)])
        for index, written in enumerate(written_captions(files))
    ]


def _with_prefix(written: _Written, prefix: str, concept: ConceptName) -> Caption:
    """The caption with `prefix`; if the token has no vectors, both without the token."""
    token, whole = token_pattern([concept.token]), f"{prefix} {written.text}".strip()
    # A token without vectors is not in the trigger that stands in the prefix.
    if not re.search(token, whole) and not (prefix and not concept.vectors and concept.trigger in prefix):
        raise UserError(
            f"{written.where}: the caption {whole[:200]!r} lacks the token {concept.token}: write the token and the"
            f" class noun, as in 'a photo of {concept.trigger}', or remove the caption; --caption-prefix 'a photo of"
            f" {_TRIGGER},' writes it before all captions"
        )
    if not concept.vectors:
        prefix, text = (" ".join(re.sub(token, " ", part).split()) for part in (prefix, written.text))
    else:
        text = written.text
    return Caption(text, f"{prefix} " if prefix else "")
