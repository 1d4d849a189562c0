"""What notebooks show: pictures side by side, and the weights of concepts as strips or sliders."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from blocklora_jax import UserError
from blocklora_jax.notebook import show, weight_sliders, weight_strip, weights
from blocklora_jax.notebook.place import ChangingPicture, in_notebook
from blocklora_jax.testing.random_adapter import random_adapter

QUICK = {"steps": 1, "guidance_scale": 1.0}
PROMPT = "a photo of <ada> man"


@pytest.fixture(scope="module")
def adapters(tiny_sd):
    return [random_adapter(name, tiny_sd.params, slots=(slot,), layers="cross_kv") for slot, name in enumerate("ab")]


@pytest.fixture
def drawn(monkeypatch):
    """The weights of each picture that is drawn. The picture is as bright as the first of them."""
    seen = []

    def draw(sd, adapters, prompt, factors, **settings):
        seen.append(list(factors))
        return np.full((8, 8, 3), round(100 * factors[0]), np.uint8)

    monkeypatch.setattr(weights, "draw_weighted", draw)
    return seen


def test_small_pictures_are_enlarged_and_stand_in_one_row():
    images = np.zeros((3, 64, 64, 3), np.uint8)
    shown = show(images)
    assert 3 * 192 < shown.width < 3 * 200 and shown.height < 210
    assert show(list(images), ["a", "b", "c"], columns=1).height > 3 * 192


def test_large_pictures_keep_their_size():
    assert show(np.zeros((1, 512, 512, 3), np.uint8)).width < 530


def test_what_cannot_be_shown_together_is_one_line():
    one, other = np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(UserError, match="2 pictures of different sizes"):
        show([one, other])
    with pytest.raises(UserError, match="1 captions for 2 pictures"):
        show([one, one], ["a"])
    with pytest.raises(UserError, match="or none"):
        show([])


def test_a_strip_changes_one_weight_in_each_row(adapters, drawn):
    strip = weight_strip(None, adapters, PROMPT, weights=(0, 0.5, 1))  # pyright: ignore
    assert drawn == [[0, 1], [0.5, 1], [1, 1], [1, 0], [1, 0.5], [1, 1]]
    assert strip.width > 3 * 192 and strip.height > 2 * 192


def test_a_strip_begins_with_the_picture_without_the_concept(tiny_sd, adapters):
    strip = np.asarray(weight_strip(tiny_sd, adapters[:1], "a photo of a man", weights=(0.0,), **QUICK))
    base = np.asarray(show(tiny_sd.generate(["a photo of a man"], **QUICK), ["a at 0"]))
    np.testing.assert_array_equal(strip, base)


def test_outside_a_notebook_sliders_are_a_strip(adapters, drawn):
    assert isinstance(weight_sliders(None, adapters, PROMPT), Image.Image)  # pyright: ignore
    with pytest.raises(UserError, match="at least one adapter"):
        weight_sliders(None, [], PROMPT)  # pyright: ignore


class Slider:
    def __init__(self, value, description, **_):
        self.value, self.description, self._watchers = value, description, []

    def observe(self, watcher, names):
        self._watchers.append(watcher)

    def move(self, value):
        self.value = value
        for watcher in self._watchers:
            watcher({"new": value})


def test_a_slider_that_is_moved_draws_another_picture(adapters, drawn, monkeypatch):
    widgets = ModuleType("ipywidgets")
    widgets.__dict__.update(
        FloatSlider=Slider, Image=lambda format: SimpleNamespace(value=b""), VBox=lambda children: children,
        Label=lambda text: text,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    monkeypatch.setattr(weights, "in_notebook", lambda: True)
    monkeypatch.setattr(weights, "find_spec", lambda name: True)
    label, first, second, picture = weight_sliders(None, adapters, PROMPT)  # pyright: ignore
    assert (label, first.description, second.description) == (PROMPT, "a", "b")
    before = picture.value
    first.move(0.2)
    assert drawn == [[1, 1], [0.2, 1]]
    assert picture.value != before
    with Image.open(io.BytesIO(picture.value)) as shown:
        assert shown.getpixel((100, 100)) == (20, 20, 20)


def test_a_picture_takes_the_place_of_the_one_before(monkeypatch):
    calls = []
    handle = SimpleNamespace(update=lambda picture: calls.append(("update", picture)))
    display = ModuleType("IPython.display")
    display.__dict__["display"] = lambda picture, display_id: calls.append(("display", picture)) or handle
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    place = ChangingPicture()
    for picture in ("one", "two", "three"):
        place.show(picture)  # pyright: ignore
    assert calls == [("display", "one"), ("update", "two"), ("update", "three")]


@pytest.mark.parametrize(
    ("shell", "is_one"), [(None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=1), True)]
)
def test_a_notebook_is_known_by_its_kernel(monkeypatch, shell, is_one):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() is is_one
