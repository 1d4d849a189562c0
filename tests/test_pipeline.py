"""The whole model as one object: its pictures, seeds, errors and folders."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import merge
from blocklora_jax import StableDiffusion
from blocklora_jax.diffusion.generate import compile_generate, draw_latents
from blocklora_jax.errors import UserError
from blocklora_jax.io.tree_paths import flatten_params
from blocklora_jax.testing.random_adapter import random_adapter
from blocklora_jax.testing.tiny_model import SIZE

QUICK = {"steps": 2, "sampler": "ddim"}
PROMPTS = ["a photo of a man", "a drawing of a dog in the snow"]


@pytest.fixture(scope="module")
def pictures(tiny_sd):
    return tiny_sd.generate(PROMPTS, seed=3, **QUICK)


def test_pictures_are_bytes_of_the_models_own_size(pictures):
    assert pictures.shape == (2, SIZE, SIZE, 3)
    assert pictures.dtype == np.uint8
    assert pictures.std() > 1


def test_a_picture_depends_on_the_seed_and_its_place_but_not_on_the_batch(tiny_sd, pictures):
    alone = tiny_sd.generate(PROMPTS[:1], seed=3, **QUICK)
    # Other batch sizes round differently, by at most one step of 255.
    assert np.abs(alone[0].astype(int) - pictures[0]).max() <= 1
    np.testing.assert_array_equal(tiny_sd.generate(PROMPTS, seed=3, **QUICK), pictures)
    assert np.abs(tiny_sd.generate(PROMPTS, seed=4, **QUICK).astype(int) - pictures).max() > 5


def test_given_latents_replace_the_seed(tiny_sd, pictures):
    latents = draw_latents(tiny_sd.models, jax.random.key(3), 2, SIZE, SIZE)
    np.testing.assert_array_equal(tiny_sd.generate(PROMPTS, seed=9, latents=latents, **QUICK), pictures)


def test_negative_prompts_change_the_pictures_as_one_for_all_or_one_for_each(tiny_sd, pictures):
    for_all = tiny_sd.generate(PROMPTS, negative_prompts=["an owl"], seed=3, **QUICK)
    each = tiny_sd.generate(PROMPTS, negative_prompts=["an owl", ""], seed=3, **QUICK)
    np.testing.assert_array_equal(for_all[0], each[0])
    np.testing.assert_array_equal(each[1], pictures[1])
    assert np.any(for_all[1] != pictures[1])


def test_merged_concepts_are_called_by_their_tokens(tiny_sd):
    adapter = random_adapter("ada", tiny_sd.params, slots=(1,))
    params = merge.compose(tiny_sd.params, [adapter])
    prompts = ["a photo of <ada> man", "a photo of a man"]
    merged = tiny_sd.generate(prompts, params=params, adapters=[adapter], **QUICK)
    assert merged.shape == (2, SIZE, SIZE, 3)
    assert np.any(merged[1] != tiny_sd.generate(prompts[1:] * 2, **QUICK)[1])


def test_a_concept_without_its_params_is_an_error(tiny_sd):
    adapter = random_adapter("ada", tiny_sd.params, slots=(1,))
    with pytest.raises(UserError, match="pass params composed with the adapters"):
        tiny_sd.generate(["a photo of <ada> man"], adapters=[adapter], **QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "no prompt"),
        ({"prompts": "a dog"}, "not one string"),
        ({"negative_prompts": "an owl"}, "not one string"),
        ({"negative_prompts": ["a", "b", "c"]}, "3 negative prompts for 2 prompts"),
        ({"height": SIZE + 1}, "must be multiples of 2"),
        ({"width": 0}, "must be multiples of 2"),
        ({"sampler": "magic"}, "sampler 'magic' is unknown"),
        ({"steps": 0}, "0 sampling steps"),
        ({"prompts": ["a (dog:99)"]}, "the weight of 'dog' must be at most 10"),
        ({"spacing": "karras"}, "ddim does not have the spacing karras"),
        ({"clip_skip": 9}, "clip_skip 9 leaves out the whole text encoder"),
        ({"guidance_rescale": -1}, "guidance_rescale must lie in 0..1"),
        ({"latents": np.zeros((1, 8, 8, 4), np.float32)}, r"latents \[1, 8, 8, 4\].*2 prompts"),
        ({"latents": np.zeros((2, 4, 8, 8), np.float32)}, r"latents \[2, 4, 8, 8\]"),
    ],
)
def test_impossible_arguments_are_refused_in_one_message(tiny_sd, arguments, message):
    arguments = {"prompts": PROMPTS, **QUICK, **arguments}
    with pytest.raises(UserError, match=message):
        tiny_sd.generate(arguments.pop("prompts"), **arguments)


def test_a_saved_model_can_be_loaded_again(tiny_sd, tmp_path):
    adapter = random_adapter("ada", tiny_sd.params, slots=(1,))
    params = merge.compose(tiny_sd.params, [adapter])
    tiny_sd.save(tmp_path / "merged", params=params, adapters=[adapter])
    loaded = StableDiffusion.from_pretrained(tmp_path / "merged")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, dict(params))
    prompts = ["a photo of <ada> man"]
    np.testing.assert_array_equal(loaded.tokenizer.encode(prompts), tiny_sd.tokenizer.encode(prompts, {"<ada>": 2}))
    assert loaded.image_size == SIZE
    assert loaded.schedule == tiny_sd.schedule


def test_a_missing_model_is_one_error(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        StableDiffusion.from_pretrained(tmp_path / "nowhere")


@pytest.fixture(params=["tiny_sd2", "tiny_xl"])
def later(request):
    """A Stable Diffusion 2.x, then an SDXL."""
    return request.getfixturevalue(request.param)


def test_later_models_make_pictures_and_call_merged_concepts(later):
    adapter = random_adapter("ada", later.params, slots=(1,))
    prompts, empty = ["a photo of <ada> man", "a photo of a man"], {"negative_prompts": [""]}
    params = merge.compose(later.params, [adapter])
    pictures = later.generate(prompts, params=params, adapters=[adapter], **empty, **QUICK)
    assert pictures.shape == (2, SIZE, SIZE, 3)
    assert pictures.std() > 1
    # The second calls no concept: only the merged layers change it.
    base = later.generate(prompts[1:] * 2, **empty, **QUICK)
    assert np.any(base[1] != pictures[1]) and np.abs(base[0].astype(int) - pictures[0]).max() > 5


def test_sdxl_reads_sizes_and_compiles_once_for_all_of_them(tiny_xl):
    programs = compile_generate.cache_info
    base = tiny_xl.generate(PROMPTS, **QUICK)
    before = programs().misses
    same = {"original_size": (SIZE, SIZE), "crops_coords_top_left": (0, 0), "target_size": (SIZE, SIZE)}
    np.testing.assert_array_equal(tiny_xl.generate(PROMPTS, **same, **QUICK), base)
    for name, value in (("original_size", (512, 99)), ("crops_coords_top_left", (0, 90)), ("target_size", (99, SIZE))):
        assert np.any(tiny_xl.generate(PROMPTS, **{**same, name: value}, **QUICK) != base), name
    assert programs().misses == before


def test_the_empty_negative_prompt_of_sdxl_is_zeros_unless_it_is_given_or_the_model_says_so(tiny_xl):
    zeros, given = tiny_xl.generate(PROMPTS, **QUICK), tiny_xl.generate(PROMPTS, negative_prompts=[""], **QUICK)
    assert np.any(zeros != given)
    checkpoint = dataclasses.replace(tiny_xl.checkpoint, force_zeros_for_empty_prompt=False)
    plain = dataclasses.replace(tiny_xl, checkpoint=checkpoint)
    np.testing.assert_array_equal(plain.generate(PROMPTS, **QUICK), given)


def test_parameters_are_not_twice_in_memory(tiny_sd):
    held, used = (flatten_params(params["unet"]) for params in (tiny_sd.checkpoint.params, tiny_sd.params))
    assert all(array.ctypes.data == used[path].unsafe_buffer_pointer() for path, array in held.items())


def test_parts_of_a_picture_outside_the_mask_keep_their_latents(tiny_sd):
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    kept = tiny_sd.generate(PROMPTS, image=image, mask=mask, **QUICK).astype(int)
    # Nothing is drawn anew, whatever the prompt: both pictures are the decoded latents of the image. One level of 255:
    # the guided batch may round differently.
    assert np.abs(kept[0] - kept[1]).max() <= 1
    weak, strong = (tiny_sd.generate(PROMPTS, image=image, strength=share, **QUICK) for share in (0.5, 1.0))
    far, near = (np.abs(pictures.astype(int) - kept).mean() for pictures in (strong, weak))
    assert far > near > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.zeros((SIZE, SIZE), np.uint8)}, "give the image too"),
        ({"image": np.zeros((SIZE, SIZE, 3), np.float32)}, "of type float32 must be uint8"),
        ({"image": np.zeros((3, SIZE, SIZE, 3), np.uint8)}, "one for each of 2 prompts"),
        ({"image": np.zeros((SIZE + 1, SIZE, 3), np.uint8)}, "must be multiples of 2"),
        ({"image": np.zeros((SIZE, SIZE, 3), np.uint8), "strength": 0.3}, "leaves no step"),
        ({"image": np.zeros((SIZE, SIZE, 3), np.uint8), "strength": 0}, "strength must be above 0"),
        ({"image": np.zeros((SIZE, SIZE, 3), np.uint8), "mask": np.zeros((4, 4), np.uint8)}, "as large as the image"),
        ({"image": np.zeros((4, 4, 3), np.uint8), "latents": np.zeros((2, 8, 8, 4), np.float32)}, "size of the image"),
    ],
)
def test_impossible_images_and_masks_are_refused_in_one_message(tiny_sd, arguments, message):
    with pytest.raises(UserError, match=message):
        tiny_sd.generate(PROMPTS, **QUICK, **arguments)
