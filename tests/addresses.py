"""Addresses of this machine for processes that talk to each other."""

from __future__ import annotations

import socket


def free_address() -> str:
    """HOST:PORT of this machine that nobody uses now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"
