"""A 4 MB file system that is partly filled; where mounting is not allowed, a limit on the size of a file."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

SIZE = 4 << 20  # bytes


class SmallDisk:
    """A tmpfs at `folder`. A command writes into `place`. Use it in a `with` block, which unmounts it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.place, self._ballast = folder, folder / "now", folder / "ballast"
        folder.mkdir(parents=True)
        self.is_mounted = False

    def __enter__(self) -> SmallDisk:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self._folder)]
        self.is_mounted = (
            shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True).returncode
        )
        return self

    def __exit__(self, *exc: object) -> None:
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self._folder)], check=True)

    def reset(self, kept: Path) -> None:
        """Make `place` a copy of `kept`, and free all other room."""
        self.free()
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(kept, self.place)

    def fill(self, room: int) -> None:
        """Leave `room` bytes, rounded down to whole pages."""
        if not self.is_mounted:
            return
        status = os.statvfs(self._folder)
        # posix_fallocate takes the pages, so no zeros need to be written.
        with open(self._ballast, "wb") as file:
            taken = max(status.f_bavail * status.f_frsize - room, 1)
            os.posix_fallocate(file.fileno(), 0, taken)

    def free(self) -> None:
        """Free the room that `fill` has taken."""
        self._ballast.unlink(missing_ok=True)


def limit_file_size(size: int) -> None:
    """Let this process write no file of more than `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
