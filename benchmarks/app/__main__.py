"""A real browser goes through the app's pages on the pocket model: teach, stop, continue, compose, weigh, export.

Prints times and one line of JSON. Exits with 1 if something that should happen does not: the second picture must differ
from the first when a weight has changed, and files must be written. That the second one compiles nothing is a test.

    python -m benchmarks.app [--pictures DIR] [--library DIR] [--steps N | --quick]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.app.browser import find_chromium, open_page, save_screen, set_number
from benchmarks.app.server import app_process
from benchmarks.app.steps import choose, draw, export, measure, pixels, teach, write_prompt
from blocklora_jax.command_line.runner import run

_NAMES = ["ada", "rex"]


def read_args() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.app", description=__doc__)
    parser.add_argument("--pictures", type=Path, help="write a picture of each page into this folder")
    parser.add_argument("--library", type=Path, help="compose ada and rex of this folder of runs, which is not changed")
    parser.add_argument("--steps", type=int, default=40, help="steps of training")
    parser.add_argument("--quick", action="store_true", help="train 8 steps")
    args = parser.parse_args()
    return argparse.Namespace(**{**vars(args), "steps": 8 if args.quick else args.steps})


def go_through(args: argparse.Namespace, out: Path) -> dict:
    """Use all pages; gives what was measured."""
    found: dict = {}
    screen = lambda name: args.pictures and args.pictures / f"app_{name}.png"
    taught = ["bolt"] if args.library else _NAMES
    if args.library:
        for name in _NAMES:
            shutil.copytree(args.library / name, out / name, ignore=shutil.ignore_patterns("checkpoints"))
    with app_process(out) as address, open_page(address) as page:
        for name in taught:
            is_last = name == taught[-1]
            found[f"teach_{name}"] = teach(page, name, args.steps, screen("teach") if is_last else None, not is_last)
        page.get_by_role("tab", name="Compose").click()
        choose(page, _NAMES)
        write_prompt(page, "a photo of <ada> woman and <rex> dog in a forest")
        page.get_by_label("each alone, and merged").check()
        page.get_by_label("Several in one picture").check()
        first = draw(page)
        set_number(page, "Weight of ada", 0.4)
        second = draw(page)
        found |= {"first_pictures": first.seconds, "second_pictures": second.seconds}
        found["differ"] = pixels(page, first.addresses[-1]) != pixels(page, second.addresses[-1])
        set_number(page, "Weight of ada", 1)
        page.get_by_label("Then draw each of these again").check()
        found["refined_pictures"] = draw(page).seconds
        found["advice"] = measure(page)
        if args.pictures:
            save_screen(page, screen("compose"))
        page.get_by_role("tab", name="Share").click()
        choose(page, _NAMES)
        found["exported"] = export(page).removeprefix("Written to ").strip(".")
        if args.pictures:
            save_screen(page, screen("share"))
    found["files"] = sorted(path.name for path in (out / "exports" / "my-concepts").rglob("*.safetensors"))
    return found


def main() -> None:
    """The command line."""
    args = read_args()
    find_chromium()
    with tempfile.TemporaryDirectory() as folder:
        found = go_through(args, Path(folder) / "runs")
    for name, value in found.items():
        print(f"{name:<16}{value:.1f} s" if isinstance(value, float) else f"{name:<16}{value}")
    print(json.dumps(found))
    if not (found["differ"] and len(found["files"]) > 1):
        sys.exit(1)


if __name__ == "__main__":
    run(main)
