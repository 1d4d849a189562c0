"""The results in a few lines: our figures divided by PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]


def summarize(rows: Sequence[Row]) -> str:
    """Text for all rows that have seconds."""
    measured = [row for row in rows if "seconds" in row and "measured" in row]
    lines = [*_training(measured), *_concepts(measured), *_erasure(measured)]
    return "\n".join([*lines, *_sampling(measured), *_merges(measured)])


def _find(rows: Sequence[Row], **wanted: Any) -> Row | None:
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def _is_usual(row: Row) -> bool:
    return row.get("variant") == "plain" and row.get("attention") == "auto" and not row.get("remat")


def _against(row: Row, rows: Sequence[Row]) -> list[str]:
    """Our row divided by PyTorch's rows of the same measurement."""
    same = {name: row[name] for name in ("measured", "model", "batch")}
    theirs = {c: _find(rows, side="torch", compiled=c, **same) for c in (False, True)}
    parts = [
        f"{their['seconds'] / row['seconds']:.2f} x {'compiled' if compiled else 'eager'}"
        for compiled, their in theirs.items()
        if their
    ]
    # Compiled programs need less memory, so they are the harder comparison.
    peaks = [(their or {}).get("mib", {}).get("peak") for their in (theirs[True], theirs[False])]
    ours, least = (row.get("mib") or {}).get("peak"), next((peak for peak in peaks if peak), None)
    return parts + ([f"{ours / least:.2f} of its memory"] if ours and least else [])


def _training(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["measured"] == "training" and row["side"] == "jax" and _is_usual(row) and row["concepts"] == 1:
            parts = [f"{1 / row['seconds']:.2f} steps/s", *_against(row, rows)]
            if row.get("mfu"):
                parts.append(f"MFU {row['mfu']:.0%}")
            yield f"training {row['model']} b{row['batch']}: {', '.join(parts)}"


def _concepts(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["measured"] == "training" and row.get("concepts", 1) > 1:
            one = _find(rows, measured="training", side="jax", concepts=1, variant="plain", batch=row["batch"])
            if one:
                gain = row["concepts"] * one["seconds"] / row["seconds"]
                yield f"{row['concepts']} concepts in one program: {gain:.2f} x one after another"


def _erasure(rows: Sequence[Row]) -> Iterator[str]:
    base = _find(rows, measured="training", variant="tokens")
    for variant in ("layer", "epsilon"):
        if base and (row := _find(rows, measured="training", variant=variant)):
            yield f"erasure ({variant}): {row['seconds'] / base['seconds']:.2f} x the time of a step"


def _sampling(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["measured"] == "sampling" and row["side"] == "jax":
            parts = [f"{row['seconds']:.2f} s for {row['batch']}", *_against(row, rows)]
            yield f"sampling {row['model']} b{row['batch']}: {', '.join(parts)}"


def _merges(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["measured"] == "compose":
            parts = [f"{1e3 * row['seconds']:.2f} ms, {row['ratio']} x one read and write"]
            if theirs := _find(rows, measured="fuse", adapters=row["adapters"], layers=row["layers"]):
                parts.append(f"{theirs['seconds'] / row['seconds']:.2f} x fuse_lora")
            how = f"{row['blocks']}{', one program' if row['jitted'] else ''}"
            yield f"compose {row['adapters']} adapters, {row['layers']}, {how}: {', '.join(parts)}"
