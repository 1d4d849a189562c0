"""What the loop tells to programs that follow a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from PIL import Image


@runtime_checkable
class Follower(Protocol):
    """Is told the metrics and the previews of a run. On a pod only the first host has followers."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of the step after which `step` are finished."""
        ...

    def preview(self, step: int, name: str, picture: Image.Image) -> None:
        """Take the preview grid of the concept `name` after `step` steps."""
        ...

    def close(self) -> None:
        """End: the run is over, or was interrupted."""
        ...


@contextmanager
def closed_at_end(followers: Sequence[Follower]) -> Iterator[Sequence[Follower]]:
    """Give `followers`, and close all of them when the block ends, also after an error."""
    try:
        yield followers
    finally:
        for follower in followers:
            follower.close()
