"""The app as a process of its own, as users start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blocklora_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@contextmanager
def app_process(out: Path) -> Iterator[str]:
    """The address of an app on the pocket model, with the library `out`, on a free port. It ends with the block.

    Raises: UserError if the app does not begin.
    """
    command = [sys.executable, "-m", "train.app", "--out", str(out), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"the app is at (\S+)", line):
                yield found[1]
                return
        raise UserError(f"the app did not begin: {''.join(lines)[-2000:]}")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
