"""Choosing concepts of the library, each with a slider for its weight. Two pages have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from train.app.library import Entry
from train.app.session import Session

MOST_SLIDERS = 16
_BLANK = Image.new("RGB", (256, 256), (222, 226, 232))


class Picker:
    """Check boxes and sliders. Concepts beyond the number of sliders have weight 1."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.names = gr.CheckboxGroup([], label="Concepts: choose one or several", elem_classes="concepts")
        self._sliders = [
            gr.Slider(0, 1.5, value=1, step=0.05, visible=False, label="Weight", elem_classes="weight")
            for _ in range(MOST_SLIDERS)
        ]
        # Which concept has which slider, so that a weight stays with its concept when others are chosen.
        self._owners = gr.State([])
        self.seen = gr.State([])

    @property
    def inputs(self) -> list[Any]:
        """What a handler reads; `read` makes names and weights of it."""
        return [self.names, self._owners, *self._sliders]

    def split(self, values: Sequence[Any]) -> tuple[list[str], list[float], tuple[Any, ...]]:
        """The chosen names, their weights, and the other values that a handler was given."""
        names, owners, *rest = values
        sliders, others = rest[:MOST_SLIDERS], rest[MOST_SLIDERS:]
        weights = dict(zip(owners, sliders, strict=False))
        return list(names or []), [float(weights.get(name, 1.0)) for name in names or []], tuple(others)

    def on_change(self, name: str, shown: Callable[..., Any], outputs: list[Any], more: Sequence[Any] = ()) -> None:
        """Show the sliders of the chosen concepts, and call `shown(names, *more)` for `outputs`."""

        def change(names: list[str], owners: list[str], *values: Any):
            owners = self._give_sliders(names, owners)
            sliders = [gr.update(visible=owner in names, label=f"Weight of {owner}") for owner in owners]
            sliders += [gr.update(visible=False)] * (MOST_SLIDERS - len(sliders))
            return [owners, *sliders, *shown(names, *values)]

        self.names.change(
            change, [self.names, self._owners, *more], [self._owners, *self._sliders, *outputs],
            show_progress="hidden", api_name=name, api_visibility="undocumented",
        )  # fmt: skip

    def refreshed(self, names: list[str] | None, seen: list[str]) -> tuple[Any, list[str]]:
        """The check boxes, for the library as it is now. names: those that are chosen. seen: the labels shown so far.

        Only what must change is sent, because the user may click meanwhile.
        """
        entries, _ = self._session.library.entries()
        labels, known = [entry.label for entry in entries], [entry.name for entry in entries]
        if labels == seen:
            return gr.skip(), labels
        choices = list(zip(labels, known, strict=True))
        kept = [name for name in names or [] if name in known]
        return gr.update(choices=choices) if kept == (names or []) else gr.update(choices=choices, value=kept), labels

    def _give_sliders(self, names: list[str], owners: list[str]) -> list[str]:
        """`owners`, in which every chosen concept has a slider, as far as there are enough."""
        owners = list(owners)
        for name in (name for name in names if name not in owners):
            free = [place for place, owner in enumerate(owners) if owner not in names]
            if len(owners) < MOST_SLIDERS:
                owners.append(name)
            elif free:
                owners[free[0]] = name
        return owners


def tiles(entries: Sequence[Entry]) -> list[tuple[Image.Image, str]]:
    """A picture and a caption for each concept; a grey square for those without previews."""
    return [(entry.picture() or _BLANK, entry.name) for entry in entries]
