"""The figures as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

HEAD = (
    "text encoder", "weights", "layers", "width", "95 % / 99 % of energy in", "ordinary text", "K", "slots", "before",
    "after (least)", "own positions", "prompt after", "padding", "s a codeword", "all K", "peak GiB",
)  # fmt: skip


def table(cases: Sequence[dict[str, Any]]) -> str:
    """A row for each case and K; ratios are medians over slots.

    "ordinary text": the mean whitened energy of words held out; far above 1, the basis was made of too few prompts.
    """
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for case in cases:
        for count, found in case["blocks"].items():
            lines.append("| " + " | ".join(_row(case, count, found)) + " |")
    return "\n".join(lines)


def _row(case: dict[str, Any], count: str, found: dict[str, Any]) -> list[str]:
    seconds, after, shares = _seconds(case), found["after"], case["shares"]
    held = " / ".join(f"{100 * shares[share] / case['directions']:.0f} %" for share in ("0.95", "0.99"))
    return [
        case["title"],
        case["weights"],
        str(case["layers"]),
        str(case["directions"]),
        held,
        f"{case['ordinary']['mean']:.1f}",
        count,
        str(len(found["slots"])),
        _median(found["before"]["onward"], 2),
        f"{_median(after['onward'])} ({min(after['onward']):.0f})",
        *(_median(after[place]) for place in ("token", "prompt", "padding")),
        f"{seconds:.1f}",
        f"{seconds * int(count) / 60:.0f} min",
        f"{case['peak_gib']:.1f}",
    ]


def _seconds(case: dict[str, Any]) -> float:
    """For one codeword. The first K is measured while it compiles, later ones are not."""
    return min(found["seconds_per_codeword"] for found in case["blocks"].values())


def _median(values: Sequence[float | None], digits: int = 0) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):.{digits}f}" if known else "–"
