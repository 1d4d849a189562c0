"""Looks at the weights of concepts: a strip of pictures for each, or sliders in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.errors import UserError
from blocklora_jax.io.picture_grid import png_bytes
from blocklora_jax.notebook.pictures import show
from blocklora_jax.notebook.place import in_notebook
from blocklora_jax.pipeline import StableDiffusion


def weight_strip(
    sd: StableDiffusion,
    adapters: Sequence[Adapter],
    prompt: str,
    weights: Sequence[float] = (0.0, 0.5, 1.0),
    **settings: Any,
) -> Image.Image:
    """A row of pictures for each adapter: its weight changes, and the others stay at 1. All start from one noise.

    settings: of `Pipeline.generate`, such as seed=1 or steps=20.

    Raises: UserError as `StableDiffusion.with_adapters` and `Pipeline.generate` do.
    """
    _check(adapters, weights)
    pictures, captions = [], []
    for place, adapter in enumerate(adapters):
        for weight in weights:
            factors = [1.0] * len(adapters)
            factors[place] = weight
            pictures.append(draw_weighted(sd, adapters, prompt, factors, **settings))
            captions.append(f"{adapter.name} at {weight:g}")
    return show(pictures, captions, columns=len(weights))


def weight_sliders(sd: StableDiffusion, adapters: Sequence[Adapter], prompt: str, **settings: Any) -> Any:
    """A slider for the weight of each adapter and a picture that follows them, as a widget of ipywidgets.

    Outside a notebook, and without ipywidgets, it gives the picture of `weight_strip`.

    settings: of `Pipeline.generate`.
    """
    _check(adapters, (1.0,))
    if not in_notebook() or find_spec("ipywidgets") is None:
        return weight_strip(sd, adapters, prompt, **settings)
    import ipywidgets  # pyright: ignore[reportMissingImports]

    # A picture takes seconds: it is drawn when a slider is let go.
    style = {"min": 0.0, "max": 1.5, "step": 0.05, "continuous_update": False}
    sliders = [ipywidgets.FloatSlider(value=1.0, description=adapter.name, **style) for adapter in adapters]
    picture = ipywidgets.Image(format="png")

    def draw(_: Any = None) -> None:
        drawn = draw_weighted(sd, adapters, prompt, [slider.value for slider in sliders], **settings)
        picture.value = png_bytes(show([drawn]))

    for slider in sliders:
        slider.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.Label(prompt), *sliders, picture])


def draw_weighted(
    sd: StableDiffusion, adapters: Sequence[Adapter], prompt: str, weights: Sequence[float], **settings: Any
) -> np.ndarray:
    """The picture of `prompt` with each adapter at its weight, uint8 [h, w, 3]."""
    return sd.with_adapters(adapters, weights).generate([prompt], **settings)[0]


def _check(adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    if not adapters or not weights:
        raise UserError("give at least one adapter and one weight")
