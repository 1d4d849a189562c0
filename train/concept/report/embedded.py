"""Pictures as part of a page: data URIs, which need no file beside it."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

# Pixels. Larger pictures are made smaller, so that the page stays a few MB at most.
_WIDEST = 1600


def embed_file(path: Path, alt: str) -> str:
    """The picture in a file as an <img> element with a JPEG; "" if it is missing or cannot be read."""
    try:
        with Image.open(path) as picture:
            return embed(picture.convert("RGB"), alt)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def embed(picture: Image.Image, alt: str, kind: str = "JPEG") -> str:
    """A picture as an <img> element. alt: what it shows. kind: "JPEG", or "PNG" for drawings."""
    picture.thumbnail((_WIDEST, 8 * _WIDEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **({"quality": 85} if kind == "JPEG" else {}))
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img {size} alt="{html.escape(alt)}" src="data:image/{kind.lower()};base64,{data}">'
