"""Chromium, through Playwright, and what every page needs of it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from blocklora_jax.errors import UserError

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_LARGEST = 200_000  # bytes of a picture for the documentation
_WIDTH, _HEIGHT = 1280, 900


def find_chromium() -> str:
    """The path of Chromium. Raises: UserError if it or Playwright is missing."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        raise UserError(f"there is no Chromium here ({', '.join(_NAMES)}): install it with your system's packages")
    try:
        import playwright.sync_api  # noqa: F401  # pyright: ignore
    except ImportError as error:
        raise UserError("the app's benchmark needs Playwright: pip install playwright") from error
    return path


@contextmanager
def open_page(address: str) -> Iterator[Any]:
    """A page of a new browser that shows the app."""
    from playwright.sync_api import sync_playwright  # pyright: ignore

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_role("tab", name="Teach").wait_for()
        yield page
        browser.close()


def save_screen(page: Any, path: Path) -> None:
    """Write the whole page as a PNG of at most 200 kB, with as many colours as fit."""
    page.wait_for_timeout(800)  # Pictures fade in.
    page.evaluate("window.scrollTo(0, 0)")
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            buffer, "PNG", optimize=True
        )
        if len(buffer.getvalue()) <= _LARGEST:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def set_number(page: Any, label: str, value: float) -> None:
    """Type a number beside the slider with this label."""
    box = page.get_by_label(f"number input for {label}", exact=True).filter(visible=True)
    box.fill(str(value))
    box.press("Tab")
