"""Whether Python runs in a notebook, and outputs there that change."""

from __future__ import annotations

import sys
from typing import Any

from PIL import Image


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, as in Jupyter or Colab. It imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and hasattr(ipython, "get_ipython") else None
    return hasattr(shell, "kernel")


class ChangingPicture:
    """A picture in the output of the running cell, which is replaced by the next one."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, picture: Image.Image) -> None:
        """Show `picture` in place of the one before."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
