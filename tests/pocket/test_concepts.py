"""Concepts give reference pictures of one thing in varied settings. The packaged ones can be drawn again."""

import json

import numpy as np
import pytest
from PIL import Image

from blocklora_jax.errors import UserError
from blocklora_jax.pocket import concepts, references, world


@pytest.mark.parametrize("name", concepts.CONCEPTS)
def test_packaged_references_are_what_the_world_draws(name):
    pictures, captions = concepts.concept_pictures(name)
    folder = references.reference_folder(name)
    for i, (picture, words) in enumerate(zip(pictures, captions, strict=True)):
        kept = np.asarray(Image.open(folder / f"{i:02d}.png")).astype(int)
        # Another Pillow may round a pixel of an edge differently.
        assert np.abs(kept - picture).mean() < 1.0
        assert (folder / f"{i:02d}.txt").read_text().strip() == words
    about = json.loads((folder / "concept.json").read_text())
    assert about["token"] == f"<{name}>"
    assert all(f"{about['token']} {about['class_noun']}" in words for words in captions)


def test_references_differ_from_each_other_and_from_the_next_seed():
    first, _ = concepts.concept_pictures("ada", n=6, seed=0)
    other, _ = concepts.concept_pictures("ada", n=6, seed=1)
    pictures = [*first, *other]
    assert len({picture.tobytes() for picture in pictures}) == 12


@pytest.mark.parametrize("kind", concepts.KINDS)
def test_random_concepts_of_every_kind_can_be_drawn(kind):
    concept = concepts.draw_concept(kind, "x1", np.random.default_rng(3))
    pairs = concepts.concept_specs(concept, n=7)
    assert len(pairs) == 7 and all("<x1> " + concept.class_noun in words for _, words in pairs)
    held = {"scene": world.HELD_OUT_SCENES, "style": world.HELD_OUT_STYLES}.get(kind)
    assert held is None or concept.thing[0] in held


def test_unknown_packaged_concept_is_named():
    with pytest.raises(UserError, match="no packaged concept 'zed'; there are ada, ben"):
        references.reference_folder("zed")
