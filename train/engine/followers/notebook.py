"""The output of a notebook's cell: curves and the newest preview, while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from PIL import Image

from blocklora_jax.io.line_chart import Curve, line_chart
from blocklora_jax.notebook.place import ChangingPicture

# Seconds between drawings of the curves, and pixels of a preview's width.
_EVERY, _WIDEST = 2.0, 1000
# Curves with another name are left out: they say more to developers.
_SHOWN = ("diffusion_loss", "erase_loss")


class NotebookView:
    """Shows curves of the losses, and the newest preview of each concept.

    lines: of the metrics.jsonl of a run that is resumed.
    """

    def __init__(self, lines: Sequence[Mapping[str, float]] = ()) -> None:
        self._points = {name: [(line["step"], line[name]) for line in lines if name in line] for name in _SHOWN}
        self._chart, self._previews = ChangingPicture(), dict[str, ChangingPicture]()
        self._drawn = 0.0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve, and draw them if the last drawing is a while ago."""
        for name, points in self._points.items():
            # A resumed run may repeat a few steps.
            while points and points[-1][0] >= step:
                points.pop()
            if name in values:
                points.append((step, values[name]))
        if time.monotonic() - self._drawn > _EVERY:
            self._draw()

    def preview(self, step: int, name: str, picture: Image.Image) -> None:
        """Show a smaller copy of the grid in place of the one before."""
        smaller = picture.convert("RGB")
        smaller.thumbnail((_WIDEST, 8 * _WIDEST))
        self._previews.setdefault(name, ChangingPicture()).show(smaller)

    def close(self) -> None:
        """Draw the curves up to the end."""
        self._draw()

    def _draw(self) -> None:
        curves = {name: Curve(*zip(*points, strict=True)) for name, points in self._points.items() if points}
        if curves:
            self._chart.show(line_chart(curves))
        self._drawn = time.monotonic()
