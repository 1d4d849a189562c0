"""Prompts for parts of a picture."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from blocklora_jax import Adapter, Region, UserError, side_by_side
from blocklora_jax.adapters.info import AdapterInfo
from blocklora_jax.diffusion.regions import cover

MAN, OWL = "a photo of a man", "an owl in the snow"
WHOLE = (0.0, 0.0, 1.0, 1.0)
LEFT = (0.0, 0.0, 0.5, 1.0)
SETTINGS = {"steps": 2, "sampler": "ddim", "guidance_scale": 3.0}


def concept(name: str, noun: str, kind: str) -> Adapter:
    info = AdapterInfo(name=name, class_noun=noun, trigger=f"<{name}> {noun}", rank=1, alpha=1.0, kind=kind)
    return Adapter(lora={}, tokens={f"<{name}>": np.zeros((2, 4), np.float32)}, info=info)


def test_a_region_with_the_prompt_of_the_picture_changes_nothing(tiny_sd):
    plain = tiny_sd.generate([MAN], **SETTINGS)
    same = tiny_sd.generate([MAN], regions=[[Region(MAN, LEFT)]], **SETTINGS)
    # One level of 255, here and below, because batches of another size round differently.
    assert np.abs(plain.astype(int) - same).max() <= 1


def test_a_region_over_the_whole_picture_equals_its_prompt(tiny_sd):
    plain = tiny_sd.generate([OWL], **SETTINGS)
    whole = tiny_sd.generate([MAN], regions=[[Region(OWL, WHOLE)]], **SETTINGS)
    assert np.abs(plain.astype(int) - whole).max() <= 1
    assert (tiny_sd.generate([MAN], **SETTINGS) != plain).any()


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_picture_is_the_same_beside_one_with_more_regions(tiny_sd, guidance_scale):
    settings = SETTINGS | {"guidance_scale": guidance_scale}
    own = [Region(OWL, LEFT)]
    latents = np.random.default_rng(0).standard_normal((2, 8, 8, 4), np.float32)
    alone = tiny_sd.generate([MAN], regions=[own], latents=latents[:1], **settings)
    more = [Region(OWL, LEFT), Region(MAN, (0.2, 0.2, 0.9, 0.6))]
    together = tiny_sd.generate([MAN, OWL], regions=[own, more], latents=latents, **settings)
    assert np.abs(alone[0].astype(int) - together[0]).max() <= 1


def test_without_regions_the_picture_is_the_plain_one(tiny_sd):
    plain = tiny_sd.generate([MAN], **SETTINGS)
    np.testing.assert_array_equal(plain, tiny_sd.generate([MAN], regions=[[]], **SETTINGS))


def test_cover_marks_the_pixels_whose_centres_are_inside():
    boxes = jnp.asarray([[[0.0, 0.5, 0.5, 1.0]], [[0.3, 0.0, 0.7, 0.3]], [[0.0, 0.0, 0.0, 0.0]]])
    low_left, top, nothing = np.asarray(cover(boxes, 2, 4)).reshape(3, 2, 4)
    np.testing.assert_array_equal(low_left, [[0, 0, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(top, [[0, 1, 1, 0], [0, 0, 0, 0]])
    assert not nothing.any()


@pytest.mark.parametrize(
    "box", [(0.5, 0.0, 0.5, 1.0), (0.0, 0.9, 1.0, 0.1), (-0.1, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 64.0)]
)
def test_boxes_outside_the_picture_are_named(box):
    with pytest.raises(UserError, match="a man.*within 0..1"):
        Region("a man", box)


def test_there_must_be_one_list_of_regions_for_each_prompt(tiny_sd):
    with pytest.raises(UserError, match="regions of 1 pictures for 2 prompts"):
        tiny_sd.generate([MAN, OWL], regions=[[]])


def test_side_by_side_reads_one_concept_in_each_strip_and_the_scene_in_all():
    ada, rex = concept("ada", "woman", "person"), concept("rex", "dog", "object")
    cove = concept("cove", "beach", "scene")
    prompt = "a photo of <ada> woman and <rex> dog on a <cove> beach"
    left, right = side_by_side(prompt, [cove, rex, ada])
    assert left == Region("a photo of <ada> woman and a dog on a <cove> beach", LEFT)
    assert right == Region("a photo of a woman and <rex> dog on a <cove> beach", (0.5, 0.0, 1.0, 1.0))
    owl = concept("bo", "owl", "object")
    assert side_by_side("the <rex> dog and <bo> owl", [rex, owl])[1].prompt == "the dog and <bo> owl"
    assert side_by_side("the <rex> dog and <bo> owl", [rex, owl])[0].prompt == "the <rex> dog and an owl"
    # A concept is replaced wherever it is called, with or without its noun, also if a trigger contains another's noun.
    twice = side_by_side("<rex> dog with <bo> owl, <rex> happy", [rex, owl])
    assert [region.prompt for region in twice] == [
        "<rex> dog with an owl, <rex> happy",
        "a dog with <bo> owl, a dog happy",
    ]
    other = replace(owl, tokens={}, info=replace(owl.info, trigger="dog in a hat"))
    # LoRAs of other programs may have no noun.
    external = replace(owl, tokens={}, info=replace(owl.info, trigger="sks", class_noun=""))
    assert side_by_side("<rex> dog, sks", [rex, external])[0].prompt == "<rex> dog, "
    assert len(side_by_side("<rex> dog in a hat", [rex, other])) == 2
    assert side_by_side("a photo of <ada> woman on a <cove> beach", [ada, rex, cove]) == []


def test_a_style_covers_the_whole_picture_and_is_read_separately_from_the_subjects():
    ada, rex = concept("ada", "woman", "person"), concept("rex", "dog", "object")
    ink, cove = concept("ink", "mosaic", "style"), concept("cove", "beach", "scene")
    whole = (0.0, 0.0, 1.0, 1.0)
    style, subject = side_by_side("a <ink> mosaic of <ada> woman on a <cove> beach", [ada, ink, cove])
    assert style == Region("a <ink> mosaic of a woman on a <cove> beach", whole)
    assert subject == Region("a mosaic of <ada> woman on a <cove> beach", whole)
    left, right, over = side_by_side("<ada> woman and <rex> dog, <ink> mosaic", [ink, ada, rex])
    assert left == Region("<ada> woman and a dog, a mosaic", LEFT)
    assert (right.box, over.box) == ((0.5, 0.0, 1.0, 1.0), whole)
    assert over.prompt == "a woman and a dog, <ink> mosaic"
    # Without another concept's subject there is nothing to keep a style apart from.
    assert side_by_side("a <ink> mosaic of a dog on a <cove> beach", [ink, cove, rex]) == []


def test_side_by_side_finds_concepts_in_any_case_as_prompts_do():
    ada, rex = concept("ada", "woman", "person"), concept("rex", "dog", "object")
    left, right = side_by_side("a photo of <ADA> Woman and <Rex> dog", [ada, rex])
    assert left.prompt == "a photo of <ADA> Woman and a dog"
    assert right.prompt == "a photo of a woman and <Rex> dog"
