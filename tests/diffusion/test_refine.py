"""People and objects that are drawn again, enlarged, and put back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blocklora_jax import Region, UserError
from blocklora_jax.diffusion.refine import CloseUp, find_part, in_chunks, plan_close_ups, refine, soft_mask
from blocklora_jax.diffusion.regions import side_by_side
from blocklora_jax.testing.random_adapter import random_adapter

LEFT, RIGHT, SIZE = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0), (64, 64)
QUICK = {"steps": 2, "sampler": "ddim"}


@pytest.fixture(scope="module")
def concepts(tiny_sd):
    made = {}
    for slot, (name, noun, kind) in enumerate(
        [("ada", "woman", "person"), ("rex", "dog", "object"), ("ink", "mosaic", "style")]
    ):
        adapter = random_adapter(name, tiny_sd.params, slots=(slot,))
        info = replace(adapter.info, class_noun=noun, kind=kind, trigger=f"<{name}> {noun}")
        made[name] = replace(adapter, info=info)
    return made


@pytest.mark.parametrize(
    ("prompt", "of_ada", "of_rex", "of_nobody"),
    [
        ("a <ada> woman and a <rex> dog in snow", "a <ada> woman in snow", "a <rex> dog in snow", "a  in snow"),
        ("(<ada> woman:1.2) and [<rex> dog], snow", "<ada> woman, snow", "<rex> dog, snow", ", snow"),
        ("(<rex> dog with <ada> woman:1.2)", "(<ada> woman:1.2)", "(<rex> dog:1.2)", "(:1.2)"),
        (
            "<ada> woman, <ink> mosaic, <rex> dog",
            "<ada> woman, <ink> mosaic",
            "<rex> dog, <ink> mosaic",
            "<ink> mosaic",
        ),
    ],
)
def test_a_close_up_calls_one_of_those_whom_the_prompt_calls(concepts, prompt, of_ada, of_rex, of_nobody):
    found = {c.prompt: c for c in plan(["a dog", prompt], concepts)}
    assert set(found) == {of_ada, of_rex}
    assert {c.without for c in found.values()} == {of_nobody}
    first, second = (of_ada, of_rex) if prompt.index("<ada>") < prompt.index("<rex>") else (of_rex, of_ada)
    assert (found[first].box, found[second].box, found[first].row) == (LEFT, RIGHT, 1)


def plan(prompts, concepts):
    adapters = list(concepts.values())
    return plan_close_ups(prompts, [side_by_side(prompt, adapters) for prompt in prompts], adapters)


def test_nothing_is_planned_for_a_prompt_that_calls_one(concepts):
    assert plan(["a <ada> woman", "a <ink> mosaic of a <ada> woman"], concepts) == []


def test_regions_of_the_users_own_say_where_and_whom(concepts):
    boxes = [(0.1, 0.5, 0.5, 0.9), (0.6, 0.0, 1.0, 1.0), (0.0, 0.0, 0.3, 0.3)]
    words = ["a <ada> woman and a dog", "a <rex> dog, happy", "a tree"]
    regions = [Region(text, box) for text, box in zip(words, boxes, strict=True)]
    found = plan_close_ups(["a <ada> woman and friends in snow"], [regions], list(concepts.values()))
    assert [(c.prompt, c.without, c.box) for c in found] == [
        ("a <ada> woman and friends in snow", "a  and friends in snow", boxes[0]),
        # The picture's prompt does not call rex.
        ("a <rex> dog, happy", "a , happy", boxes[1]),
    ]


@pytest.mark.parametrize("top", [0, 7, 30])
def test_the_part_is_around_what_differs_within_the_box(top):
    difference = np.full(SIZE, 0.1, np.float32)
    difference[top : top + 30, 40:60] = 5.0
    # A larger difference elsewhere does not count.
    difference[:10, :30] = 100.0
    rows, columns = find_part(difference, RIGHT)
    assert (columns.start, columns.stop) == (24, 64)
    start = min(max(top - 5, 0), 24)
    assert (rows.start, rows.stop) == (start, start + 40)


def test_the_part_has_the_shape_of_the_picture_and_holds_its_box():
    rows, columns = find_part(np.zeros((48, 96), np.float32), (1 / 3, 0.0, 2 / 3, 1.0))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (22, 44)
    assert (columns.start + columns.stop) / 2 == 48
    rows, columns = find_part(np.zeros(SIZE, np.float32), (0.5, 0.25, 0.75, 0.5))
    assert (rows, columns) == (slice(12, 36), slice(28, 52))
    assert find_part(np.zeros(SIZE, np.float32), (0.0, 0.0, 1.0, 1.0)) == (slice(0, 64), slice(0, 64))
    # A region of less than a pixel.
    rows, columns = find_part(np.zeros(SIZE, np.float32), (0.999, 0.0, 1.0, 0.001))
    assert (rows, columns) == (slice(0, 8), slice(56, 64))


def test_the_mask_is_one_within_the_box_and_fades_over_the_margin():
    mask = soft_mask(SIZE, (slice(24, 64), slice(0, 40)), LEFT)
    assert mask.shape == SIZE
    np.testing.assert_array_equal(mask[33:, :31], 1)
    np.testing.assert_array_equal(mask[:24], 0)
    np.testing.assert_array_equal(mask[:, 40:], 0)
    assert (np.diff(mask[40, 31:41]) <= 0).all()
    assert 0 < mask[40, 35] < 1


def test_only_the_box_of_a_close_up_changes_and_it_shows_what_was_drawn():
    pictures, asked = np.full((2, *SIZE, 3), 100, np.uint8), []

    def draw(prompts, *, image, rows, noise=0, **settings):
        asked.append((list(prompts), list(rows), settings.get("strength")))
        drawn = np.array(image)
        # With the concept, a part differs; then it is drawn in white.
        if "guidance_scale" in settings:
            # Whatever sampler the user chose, the noise is that with which finding was measured.
            assert (settings["sampler"], settings["spacing"]) == ("dpmpp_2m", "leading")
            drawn[:, 20:60, :32] += 50 * (prompts[0] == "with")
            return drawn
        return np.full_like(drawn, 255)

    result = refine(draw, pictures, [CloseUp(1, "with", "without", LEFT)], 0.6)
    np.testing.assert_array_equal(result[0], pictures[0])
    np.testing.assert_array_equal(result[1, 28:52, :30], 255)
    np.testing.assert_array_equal(result[1, :, 40:], 100)
    assert [(prompts, rows) for prompts, rows, _ in asked] == [(["with"], [1])] * 4 + [(["without"], [1])] * 4 + [
        (["with"], [1])
    ]
    assert asked[-1][2] == 0.6
    np.testing.assert_array_equal(pictures, 100)


def test_chunks_of_one_size_give_what_one_call_gives():
    sizes = []

    def draw(prompts, *, image, rows):
        sizes.append(len(prompts))
        return image + np.array([len(p) + 10 * r for p, r in zip(prompts, rows, strict=True)])[:, None]

    prompts, image, rows = ["a", "bb", "ccc", "dddd", "e"], np.arange(10).reshape(5, 2), [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(
        in_chunks(draw, 2)(prompts, image=image, rows=rows), draw(prompts, image=image, rows=rows)
    )
    assert sizes == [2, 2, 2, 5]


def test_a_model_refines_several_and_leaves_one_alone(tiny_sd, concepts):
    model = tiny_sd.with_adapters(list(concepts.values()))
    prompts = ["a <ada> woman and a <rex> dog", "a <ada> woman"]
    pictures = model.generate(prompts, regions=[model.side_by_side(p) for p in prompts], seed=3, **QUICK)
    refined = model.refine(pictures, prompts, seed=3, **QUICK)
    np.testing.assert_array_equal(refined[1], pictures[1])
    assert np.abs(refined[0].astype(int) - pictures[0]).max() > 8
    # A picture does not depend on the others of its batch, up to rounding.
    twice = model.refine(pictures[[0, 0]], prompts[:1] * 2, indices=[7, 0], seed=3, **QUICK)
    assert np.abs(twice[1].astype(int) - refined[0]).max() <= 2
    assert np.abs(twice[0].astype(int) - refined[0]).max() > 8
    with pytest.raises(UserError, match=r"must be uint8 \[h, w, 3\]"):
        model.refine(pictures.astype(np.float32), prompts, **QUICK)
    with pytest.raises(UserError, match="strength"):
        model.refine(pictures, prompts, strength=2.0, **QUICK)
