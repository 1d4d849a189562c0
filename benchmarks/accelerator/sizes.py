"""The sizes of what is measured: "full", or "tiny" to see that everything runs. This module imports neither library."""

from __future__ import annotations

# Height and width of pictures: of the published models, and of small models with the same structure.
PIXELS = {"full": {"sd15": 512, "sdxl": 1024}, "tiny": {"sd15": 64, "sdxl": 64}}
SAMPLING_STEPS = {"full": 30, "tiny": 2}
# Positions of a prompt.
LENGTH = 77
