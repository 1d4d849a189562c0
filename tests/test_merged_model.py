"""A model with concepts is one object: params and adapters cannot be separated."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import merge
from blocklora_jax import MergedModel, UserError
from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.diffusion.regions import side_by_side
from blocklora_jax.testing.random_adapter import random_adapter

QUICK = {"steps": 1, "sampler": "ddim"}
PROMPTS = ["a photo of <ada> man"]


@pytest.fixture(scope="module")
def adapters(tiny_sd) -> list[Adapter]:
    return [random_adapter(name, tiny_sd.params, slots=(slot,)) for slot, name in enumerate(("ada", "bob"))]


def test_a_merged_model_makes_the_same_pictures_as_params_with_adapters(tiny_sd, adapters):
    model = tiny_sd.with_adapters(adapters, weights=[1, 0.5])
    params = merge.compose(tiny_sd.params, adapters, [1, 0.5])
    with pytest.warns(DeprecationWarning, match=r"use sd\.with_adapters"):
        expected = tiny_sd.generate(PROMPTS, params=params, adapters=adapters, **QUICK)
    np.testing.assert_array_equal(model.generate(PROMPTS, **QUICK), expected)
    np.testing.assert_array_equal(tiny_sd.with_params(params, adapters).generate(PROMPTS, **QUICK), expected)
    assert model.image_size == tiny_sd.image_size


@pytest.mark.parametrize("name", ["folder", "model.safetensors"])
def test_a_merged_model_saves_the_same_files_as_params_with_adapters_bit_for_bit(tiny_sd, adapters, tmp_path, name):
    params = merge.compose(tiny_sd.params, adapters)
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with pytest.warns(DeprecationWarning, match="will be removed in version 0.3"):
        tiny_sd.save(tmp_path / "old" / name, params=params, adapters=adapters)
    tiny_sd.with_adapters(adapters).save(tmp_path / "new" / name)
    old, new = (
        {
            path.relative_to(tmp_path / side): path.read_bytes()
            for path in (tmp_path / side).rglob("*")
            if path.is_file()
        }
        for side in ("old", "new")
    )
    assert old == new
    assert len(new) > 2


def test_a_model_without_concepts_gives_no_warning_and_does_not_change(tiny_sd, adapters):
    before = tiny_sd.params
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        plain = tiny_sd.generate(["a photo of a man"], **QUICK)
        tiny_sd.with_adapters(adapters)
    assert tiny_sd.params is before
    np.testing.assert_array_equal(tiny_sd.with_adapters([]).generate(["a photo of a man"], **QUICK), plain)


@pytest.mark.parametrize("family", ["tiny_sd", "tiny_xl"])
def test_params_of_other_adapters_or_another_order_are_refused(request, family):
    sd = request.getfixturevalue(family)
    adapters = [random_adapter(name, sd.params, slots=(slot,)) for slot, name in enumerate(("ada", "bob"))]
    params = merge.compose(sd.params, adapters)
    with pytest.raises(UserError, match=r"are not those of token <bob>.*in the same order"):
        sd.with_params(params, adapters[::-1])
    with pytest.raises(UserError, match="are not those of token <cyd>"):
        sd.with_params(params, [adapters[0], random_adapter("cyd", sd.params, slots=(2,))])
    with pytest.raises(UserError, match=r"token <ada> needs rows \d+ to \d+ of the token table"):
        sd.with_params(sd.params, adapters)
    with pytest.raises(UserError, match="1 weights for 2 adapters"):
        sd.with_params(params, adapters, [1.0])


def test_a_merged_model_takes_no_params_and_no_adapters(tiny_sd, adapters):
    model = tiny_sd.with_adapters(adapters)
    for wrong in ({"params": tiny_sd.params}, {"adapters": adapters}):
        with pytest.raises(TypeError):
            model.generate(PROMPTS, **wrong, **QUICK)
    assert not hasattr(model, "with_adapters")


def test_adapters_that_collide_are_refused_unless_allowed(tiny_sd, adapters):
    rival = random_adapter("eve", tiny_sd.params, slots=(0,))
    with pytest.raises(UserError, match="both own slot 0"):
        tiny_sd.with_adapters([adapters[0], rival])
    assert tiny_sd.with_adapters([adapters[0], rival], allow_overlap=True).weights == (1.0, 1.0)


def test_a_merged_model_can_give_each_concept_its_part_of_the_picture(tiny_sd, adapters):
    prompt = "a photo of <ada> man and <bob> man"
    assert tiny_sd.with_adapters(adapters).side_by_side(prompt) == side_by_side(prompt, adapters)


def test_a_repr_is_short_and_has_no_arrays(tiny_sd, adapters):
    model = tiny_sd.with_adapters(adapters, weights=[1, 0.5])
    assert "with ada (1), bob (0.5))" in repr(model)
    for value in (tiny_sd, model, adapters[0], adapters[0].info, tiny_sd.checkpoint, [model]):
        assert len(repr(value)) < 250, type(value)
        assert "rray" not in repr(value)
        assert "\n" not in repr(value)
    assert repr(adapters[0]).startswith("Adapter('ada', ")
    assert "<ada>" in repr(adapters[0])
    # Leaves may be of any type while JAX rebuilds a tree.
    assert repr(replace(adapters[0], tokens={"<ada>": object()}))
    assert isinstance(model, MergedModel)
