"""Pictures side by side, with a line of text under each."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from blocklora_jax.io.outputs import SOFTWARE

_MARGIN = 4


def picture_grid(
    images: np.ndarray, captions: Sequence[str] | None = None, columns: int | None = None, scale: int = 1
) -> Image.Image:
    """One picture of `images` uint8 [n, h, w, 3], row by row. Each is enlarged `scale` times, with its caption."""
    count, height, width = len(images), images.shape[1] * scale, images.shape[2] * scale
    columns = columns or min(count, max(1, math.ceil(math.sqrt(count))))
    font = ImageFont.load_default(size=max(10, width // 16))
    texts = [_wrap(caption, font, width) for caption in captions or [""] * count]
    line = font.getbbox("Ag")[3] + 2
    cell_height = height + line * max(text.count("\n") + 1 if text else 0 for text in texts)
    rows = math.ceil(count / columns)
    size = (columns * (width + _MARGIN) + _MARGIN, rows * (cell_height + _MARGIN) + _MARGIN)
    grid = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(grid)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = _MARGIN + i % columns * (width + _MARGIN), _MARGIN + i // columns * (cell_height + _MARGIN)
        grid.paste(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        pen.multiline_text((x, y + height), text, fill="black", font=font, spacing=2)
    return grid


def png_bytes(image: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    """The content of a PNG file of `image`. texts: further text chunks by keyword."""
    buffer, about = io.BytesIO(), PngInfo()
    # Shows later commands that they may replace this file.
    about.add_text("Software", SOFTWARE)
    for keyword, text in (texts or {}).items():
        about.add_text(keyword, text)
    image.save(buffer, "PNG", optimize=True, pnginfo=about)
    return buffer.getvalue()


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
