"""`python -m benchmarks.kill.restore FOLDER`: read all checkpoints in a folder, and name those that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp


def unreadable(folder: Path) -> list[str]:
    """The finished checkpoints of `folder` that cannot be restored."""
    wrong = []
    for path in sorted(p for p in folder.glob("*") if p.name.isdecimal()):
        try:
            with ocp.StandardCheckpointer() as reader:
                leaves = jax.tree.leaves(reader.restore(path.absolute() / "default"))
            complete = bool(leaves)
        except Exception as error:  # orbax raises many kinds of errors for a damaged folder
            print(f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            complete = False
        wrong += [] if complete else [path.name]
    return wrong


if __name__ == "__main__":
    names = unreadable(Path(sys.argv[1]))
    print(" ".join(names))
    sys.exit(bool(names))
