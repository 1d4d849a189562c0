"""Draws a contact sheet of the world: its classes, scenes, styles and individuals with their names.

`python -m blocklora_jax.pocket.world_sheet --out sheet.png`
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

from blocklora_jax.checks.bounds import check_number
from blocklora_jax.command_line.runner import run
from blocklora_jax.pocket import world

_LABEL = 12


def contact_sheet(rows: list[tuple[str, list[np.ndarray]]], zoom: int = 1, margin: int = 84) -> Image.Image:
    """A picture of rows of pictures, uint8 [h, w, 3] of one size. Each row has a label at its left."""
    side = rows[0][1][0].shape[0] * zoom
    width = margin + max(len(pictures) for _, pictures in rows) * (side + 2)
    sheet = Image.new("RGB", (width, len(rows) * (side + 2)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for j, (label, pictures) in enumerate(rows):
        pen.text((4, j * (side + 2) + side // 2 - _LABEL // 2), label, fill=(0, 0, 0))
        for i, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(tile, (margin + i * (side + 2), j * (side + 2)))
    return sheet


def world_rows(columns: int = 10, seed: int = 0, size: int = 64) -> list[tuple[str, list[np.ndarray]]]:
    """Rows of pictures with labels.

    There is a row for each class (different individuals), for each scene and style (different subjects), and for two
    and three subjects.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for name in world.CLASSES:
        scenes = [world.SCENES[i % len(world.TRAIN_SCENES)] for i in range(columns)]
        specs = [world.PictureSpec((world.draw_individual(name, rng),), s, "photo", i) for i, s in enumerate(scenes)]
        rows.append((name, [world.draw(spec, size) for spec in specs]))
    for scene in (world.PLAIN, *world.SCENES):
        specs = [world.random_spec(rng, scene=scene, style="photo") for _ in range(columns)]
        rows.append((scene, [world.draw(spec, size) for spec in specs]))
    for style in world.STYLES:
        specs = [world.random_spec(rng, style=style) for _ in range(columns)]
        rows.append((style, [world.draw(spec, size) for spec in specs]))
    for count in (2, 3):
        specs = [world.random_spec(rng, subjects=count, style="photo") for _ in range(columns)]
        rows.append((f"{count} subjects", [world.draw(spec, size) for spec in specs]))
    return rows


def write_sheet(out: Path = Path("sheet.png"), columns: int = 10, seed: int = 0, size: int = 64, zoom: int = 2) -> None:
    """Draw a labelled sheet of every class, scene and style.

    Args:
        out: PNG file to write.
        columns: pictures in each row.
        seed: seed of the individuals and layouts.
        size: side of a drawn picture in pixels.
        zoom: enlargement of each picture on the sheet.
    """
    for name, value in (("columns", columns), ("seed", seed), ("size", size), ("zoom", zoom)):
        check_number(name, value, shown=f"--{name}")
    contact_sheet(world_rows(columns, seed, size), zoom).save(out)


def main() -> None:
    """Run the command line of the contact sheet."""
    run(lambda: tyro.cli(write_sheet))


if __name__ == "__main__":
    main()
