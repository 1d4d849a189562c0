"""Which settings may differ between concepts that train in one program, and which must be equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blocklora_jax.errors import UserError
from train.concept.config import ConceptConfig
from train.concept.settings.flat import with_later

# Concepts that train in one program may differ in these. All other settings are part of the program.
OF_ITS_OWN = frozenset(
    "images token class_noun kind out slot seed random_shares random_styles random_subjects random_scenes other_images"
    " preview_prompts crop_to_mask caption_prefix shuffle_tags caption_dropout class_images"
    " class_count push private license replace".split()
)


def check_equal(configs: Sequence[ConceptConfig]) -> ConceptConfig:
    """The first of `configs`, which stands for all. Raises: UserError naming the settings that differ and may not."""
    first = with_later(configs[0].to_json())
    differing = [
        f"{name} ({first[name]!r} for {configs[0].token}, {value!r} for {other.token})"
        for other in configs[1:]
        for name, value in with_later(other.to_json()).items()
        if name not in OF_ITS_OWN and value != first[name]
    ]
    if differing:
        raise UserError(f"concepts that train together must share these settings: {'; '.join(differing)}")
    slots = {each.token: len(each.adapter.slot or (0,)) for each in configs}
    if configs[0].adapter.basis and len(set(slots.values())) > 1:
        raise UserError(
            f"with --basis, concepts that train together must have equal numbers of slots, not {slots}:"
            " train them separately"
        )
    return configs[0]


def check_class_folders(configs: Sequence[ConceptConfig]) -> None:
    """Raises UserError if new trainings of different classes have one folder of pictures of the class."""
    nouns: dict[Path, str] = {}
    for config in configs:
        folder = config.erasure.class_images
        if folder is None or config.run.resume:
            continue
        if (noun := nouns.setdefault(folder.resolve(), config.class_noun)) != config.class_noun:
            raise UserError(
                f"--class-images {folder} is given for {noun!r} and for {config.class_noun!r}: give each class a folder"
                " of its own, as `class_images` of the concept in --concepts"
            )


def check_one_shape(configs: Sequence[ConceptConfig]) -> None:
    """Raises UserError if `configs` train in one program and their pictures may have several shapes."""
    if len(configs) > 1 and any(config.data.aspect_buckets for config in configs):
        raise UserError(
            "concepts that train in one program must have pictures of one shape at each step: with --aspect-buckets"
            " train them one after the other, with --at-once 1"
        )
