"""Commands that were renamed. The old names work for one release."""

from __future__ import annotations

import sys

# Old name -> new name.
RENAMED = {"fuse": "fit", "refit": "convert"}


def current_name(command: str) -> str:
    """The command's name, or its new name if it was renamed. Then a note is printed to stderr."""
    if command not in RENAMED:
        return command
    new = RENAMED[command]
    print(f"note: `{command}` is now called `{new}`; the old name will be removed in version 0.3", file=sys.stderr)
    return new
