"""Protection of the server from other web sites, and of other machines from the server."""

from __future__ import annotations

from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NoForeignAddresses:
    """Refuses requests that would make the server fetch an address for the browser, as Gradio does by default."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle a request as ASGI servers do."""
        if scope["type"] == "http" and fetches(scope["path"]):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this app fetches nothing from other addresses"})
            return
        await self._app(scope, receive, send)


def fetches(path: str) -> bool:
    """Whether a request for `path` makes the server fetch something from another address.

    >>> fetches("/gradio_api/file=https://example.org/a.png"), fetches("/gradio_api/file=/tmp/a.png")
    (True, False)
    """
    path = path.lower()
    return "/proxy=" in path or ("file=" in path and "://" in path.partition("file=")[2])


def middleware(host: str) -> list[Any]:
    """What every request passes. On a loopback address the name of the host must be this machine's.

    Otherwise a web site could let its own name point to 127.0.0.1, and use the app from the user's browser.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    layers = [Middleware(NoForeignAddresses)]  # pyright: ignore
    if host in LOOPBACK:
        layers.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"]))
    return layers
