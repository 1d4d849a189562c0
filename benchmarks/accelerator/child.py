"""The process of one task: `python -m benchmarks.accelerator.child SETTINGS`, with the settings as JSON.

It prepares, says that it is ready, waits for a line on its standard input, and measures. It says JSON objects, a line
each: {"event": "ready"}, {"event": "row", "row": {…}} for each measurement, {"event": "error", "row": {"error": …}}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.accelerator.rows import Rows, one_line

# `prepare(**settings)` prepares all, and gives a function that measures.
Prepare = Callable[..., Callable[[], Rows]]


def _kind(name: str) -> Prepare:
    """The function that prepares tasks of a kind. Only the library that the kind measures is imported."""
    if name == "jax training":
        from benchmarks.accelerator.jax_training import prepare
    elif name == "jax sampling":
        from benchmarks.accelerator.jax_sampling import prepare
    elif name == "jax compose":
        from benchmarks.accelerator.jax_compose import prepare
    elif name == "jax attention":
        from benchmarks.accelerator.jax_attention import prepare
    elif name == "torch training":
        from benchmarks.accelerator.torch_training import prepare
    elif name == "torch sampling":
        from benchmarks.accelerator.torch_sampling import prepare
    elif name == "torch fuse":
        from benchmarks.accelerator.torch_fuse import prepare
    else:
        raise ValueError(f"unknown kind {name!r}")
    return prepare


def main() -> None:
    """Prepare, wait, measure."""
    settings = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    # Libraries that print must not disturb the protocol.
    os.dup2(2, 1)

    def say(event: str, row: dict[str, Any] | None = None) -> None:
        answers.write(json.dumps({"event": event, "row": row or {}}) + "\n")
        answers.flush()

    try:
        measure = _kind(settings.pop("kind"))(**settings)
        say("ready")
        # Nothing comes if the process that started this one has ended.
        for row in measure() if sys.stdin.readline() else ():
            say("row", row)
    except BaseException as error:
        traceback.print_exc()
        say("error", {"error": one_line(error)})
        raise SystemExit(1) from None
    # Without this, threads and pools of the libraries can hold the process for seconds.
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
