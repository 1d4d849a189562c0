"""The old name of `python -m benchmarks.modular.distractors`; it goes with version 0.2."""

from __future__ import annotations

import sys

from benchmarks.modular.distractors import Options, main
from blocklora_jax.command_line.runner import run

__all__ = ["Options", "main"]

if __name__ == "__main__":
    print("benchmarks.modular.strangers is now called benchmarks.modular.distractors", file=sys.stderr)
    run(main)
