"""The loss curve of a run as a picture for a page (SVG)."""

from __future__ import annotations

import json
import math
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 220, 48, 26, 14
_LOSS = "diffusion_loss"


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss on the pictures) of each line of a run's metrics.jsonl. Damaged lines are left out."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        try:
            values = json.loads(line)
            step, loss = int(values["step"]), float(values[_LOSS])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if math.isfinite(loss):
            points.append((step, loss))
    return points


def smooth(losses: list[float], decay: float = 0.9) -> list[float]:
    """A moving average: the loss of one step depends mostly on how much noise that step drew.

    >>> smooth([1.0, 1.0, 2.0], decay=0.5)
    [1.0, 1.0, 1.5714285714285714]
    """
    smoothed, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = decay * total + loss, decay * weight + 1
        smoothed.append(total / weight)
    return smoothed


def draw_curve(points: list[tuple[int, float]], steps: int) -> str:
    """The curve as SVG: each value pale, their moving average dark. steps: the length of the horizontal axis."""
    if not points:
        return ""
    top = max(loss for _, loss in points) * 1.05 or 1.0
    last = max(steps, points[-1][0], 1)
    x = lambda step: _LEFT + (_WIDTH - _LEFT - 8) * step / last
    y = lambda loss: _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - loss / top)
    line = lambda pairs: " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in pairs)
    average = zip((step for step, _ in points), smooth([loss for _, loss in points]), strict=True)
    text = 'font-size="11" fill="currentColor" opacity="0.7"'
    rule = 'stroke="currentColor" opacity="0.15"'
    ticks = "".join(
        f'<text x="{_LEFT - 6}" y="{y(value) + 4:.0f}" text-anchor="end" {text}>{value:.3g}</text>'
        f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}" {rule}/>'
        for value in (0.0, top / 2, top)
    )
    marks = "".join(
        f'<text x="{x(step):.0f}" y="{_HEIGHT - 8}" text-anchor="{anchor}" {text}>{label}</text>'
        for step, anchor, label in ((0, "start", "step 0"), (last, "end", f"step {last}"))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="loss by step" style="width:100%;height:auto">'
        f"{ticks}{marks}"
        f'<polyline points="{line(points)}" fill="none" stroke="#8fb8de" stroke-width="1.2"/>'
        f'<polyline points="{line(average)}" fill="none" stroke="#1f5f99" stroke-width="2.4"/></svg>'
    )
