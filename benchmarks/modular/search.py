"""The rivals' settings, searched on concepts that the bench does not measure: `python -m benchmarks.modular.search`."""

from __future__ import annotations

import json
from pathlib import Path

FOUND = Path(__file__).with_name("searched.json")


def chosen_settings(method: str) -> float:
    """The strength at which a method merges: as searched, or 1."""
    found = json.loads(FOUND.read_text()) if FOUND.is_file() else {}
    return float(found.get(method, {}).get("weight", 1.0))
