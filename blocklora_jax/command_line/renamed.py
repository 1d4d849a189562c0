"""Commands that were renamed. The old names work for one release."""

from __future__ import annotations

import sys

# Old name -> new name.
RENAMED = {"fuse": "fit", "refit": "convert"}


def current_name(command: str) -> str:
    """The command, or its new name if it was renamed; that is said on stderr."""
    if command not in RENAMED:
        return command
    new = RENAMED[command]
    print(f"note: `{command}` is now called `{new}`; the old name goes with version 0.3", file=sys.stderr)
    return new
