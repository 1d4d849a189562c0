"""`python -m benchmarks.kill.restore FOLDER`: read every checkpoint in a folder; one that cannot be read is named."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp


def unreadable(folder: Path) -> list[str]:
    """The committed checkpoints of `folder` that do not restore."""
    wrong = []
    for path in sorted(p for p in folder.glob("*") if p.name.isdecimal()):
        try:
            with ocp.StandardCheckpointer() as reader:
                leaves = jax.tree.leaves(reader.restore(path.absolute() / "default"))
            complete = bool(leaves)
        except Exception as error:  # whatever orbax raises of a damaged folder
            print(f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            complete = False
        wrong += [] if complete else [path.name]
    return wrong


if __name__ == "__main__":
    found = unreadable(Path(sys.argv[1]))
    print(" ".join(found))
    sys.exit(bool(found))
