"""Servers on this machine that answer like broken, slow or hostile ones."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
Answer = Callable[[bytes, str], Iterator[bytes]]


def _whole(text: bytes) -> bytes:
    return _OK + f"Content-Length: {len(text)}\r\n\r\n".encode() + text


def _slowly(text: bytes, url: str) -> Iterator[bytes]:
    yield _OK + b"Content-Length: 100000\r\n\r\n"
    for _ in range(100_000):
        yield b" "
        time.sleep(0.5)


def _headers_for_ever(text: bytes, url: str) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(100_000):
        yield f"X-{number}: {'x' * 1000}\r\n".encode()


def _once(make: Callable[[bytes, str], bytes]) -> Answer:
    def answer(text: bytes, url: str) -> Iterator[bytes]:
        yield make(text, url)

    return answer


ANSWERS: Mapping[str, Answer] = {
    "the registry": _once(lambda text, url: _whole(text)),
    "no answer": _once(lambda text, url: b""),
    "something that is no HTTP": _once(lambda text, url: b"\x00\x01\x02hello\r\n\r\n"),
    "a status that is none": _once(lambda text, url: b"HTTP/1.1 abc what\r\n\r\n"),
    "a page that is not there": _once(lambda text, url: b"HTTP/1.1 404 \x1b[31mgone\r\nContent-Length: 0\r\n\r\n"),
    "an error of its own": _once(lambda text, url: b"HTTP/1.1 500 oh\r\nContent-Length: 0\r\n\r\n"),
    "half of the registry": _once(lambda text, url: _OK + b"Content-Length: 100000\r\n\r\n" + text[: len(text) // 2]),
    "chunks that are none": _once(lambda text, url: _OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc"),
    "half a chunk": _once(lambda text, url: _OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabc"),
    "a length that is none": _once(lambda text, url: _OK + b"Content-Length: many\r\n\r\n" + text),
    "a negative length": _once(lambda text, url: _OK + b"Content-Length: -5\r\n\r\n" + text),
    "a way back to itself": _once(
        lambda text, url: f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()
    ),
    "a way to a file": _once(
        lambda text, url: b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    ),
    "a way to nowhere": _once(
        lambda text, url: b"HTTP/1.1 302 Found\r\nLocation: http://[::bad\r\nContent-Length: 0\r\n\r\n"
    ),
    "a web page": _once(lambda text, url: _whole(b"<!DOCTYPE html><html>log in</html>")),
    "binary": _once(lambda text, url: _whole(bytes(range(256)))),
    "10 MB": _once(lambda text, url: _whole(b" " * (10 << 20) + text)),
    "deep JSON": _once(lambda text, url: _whole(b"[" * 100_000)),
    "a byte every half second": _slowly,
    "headers without end": _headers_for_ever,
    "a header of 100,000 letters": _once(
        lambda text, url: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n" + text
    ),
}


def serve(answer: Answer, text: bytes) -> str:
    """Start a server that gives `answer` to every request until this process ends; returns its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/registry.json"

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            for part in answer(text, url):
                connection.sendall(part)

    def listen() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    return url
