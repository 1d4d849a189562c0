"""What a person does on the pages. Each step gives what was seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.app.browser import save_screen, set_number

_MINUTE = 60_000  # milliseconds


class Pictures(NamedTuple):
    """addresses: of the pictures shown. seconds: from the click until they were there."""

    addresses: list[str]
    seconds: float


def teach(page: Any, example: str, steps: int, screen: Path | None = None, interrupt: bool = False) -> float:
    """Check the pictures of an example, and teach it. Gives the seconds.

    screen: a file for a picture of the page. interrupt: stop the training once, and continue it.
    """
    page.get_by_role("tab", name="Teach").click()
    page.get_by_label("Pictures", exact=True).click()
    page.get_by_role("option", name=example, exact=True).click()
    page.wait_for_function(f"document.querySelector('#name input, #name textarea').value === '{example}'")
    set_number(page, "Steps", steps)
    page.locator("#check").click()
    page.get_by_text("6 pictures.").wait_for()
    begun = time.perf_counter()
    page.locator("#teach").click()
    shown = page.locator("#training")
    if interrupt:
        stop_and_continue(page, example)
    if screen:
        shown.get_by_text(f"step {steps // 2}").or_(shown.get_by_text("is taught")).first.wait_for(timeout=10 * _MINUTE)
        page.locator("#preview img").first.wait_for(timeout=10 * _MINUTE)
        save_screen(page, screen)
    shown.get_by_text(f"{example} is taught").wait_for(timeout=20 * _MINUTE)
    return time.perf_counter() - begun


def stop_and_continue(page: Any, name: str) -> None:
    """Stop the training that runs, and continue it."""
    shown = page.locator("#training")
    shown.get_by_text("of").filter(has_text="step").first.wait_for(timeout=10 * _MINUTE)
    page.locator("#stop").click()
    shown.get_by_text(f"{name} was stopped").wait_for(timeout=5 * _MINUTE)
    page.locator("#continue").click()


def choose(page: Any, names: list[str]) -> None:
    """Tick concepts on the page that is shown."""
    for name in names:
        page.locator(".concepts:visible label").filter(has_text=f"{name} ·").locator("input").check()
    page.get_by_label(f"number input for Weight of {names[-1]}", exact=True).filter(visible=True).wait_for()


def write_prompt(page: Any, text: str) -> None:
    """Write a prompt."""
    page.locator("#prompt textarea").fill(text)


def draw(page: Any) -> Pictures:
    """Click Draw, and wait for other pictures than before."""
    shown = "Array.from(document.querySelectorAll('#pictures img')).map(image => image.src)"
    before = page.evaluate(shown)
    begun = time.perf_counter()
    page.locator("#draw").click()
    page.wait_for_function(f"before => {shown}.length && {shown}[0] !== before[0]", arg=before, timeout=10 * _MINUTE)
    return Pictures(page.evaluate(shown), time.perf_counter() - begun)


def pixels(page: Any, address: str) -> bytes:
    """The file at an address of the app."""
    return page.request.get(address).body()


def measure(page: Any) -> str:
    """Measure crosstalk; gives the advice."""
    page.locator("#measure").click()
    page.locator("#heat img").wait_for(timeout=10 * _MINUTE)
    return page.locator("#advice .notice").first.inner_text()


def export(page: Any) -> str:
    """Export; gives the line that says where the files are."""
    page.locator("#export").click()
    line = page.get_by_text("Written to")
    line.wait_for(timeout=5 * _MINUTE)
    return line.inner_text()
