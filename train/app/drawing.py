"""Drawing: from the page's form to pictures, with the grids of `python -m merge … --prompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.bounds import Bound, check_number
from blocklora_jax.composing.check import check_adapters
from blocklora_jax.diffusion.sampling import Sampling
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.picture_grid import picture_grid, png_bytes
from merge.cli.options import MergeOptions, check_picture_options
from merge.cli.picture_cells import Cell, Variant, check_comparison, plan_grid
from merge.cli.picture_record import RECORD, picture_record
from train.app.jobs import Job
from train.app.library import Entry
from train.app.session import ADJUSTING, Method, Session, shares_slots

# What a picture depends on: its model, its prompt, and the number of its noise.
_Key = tuple[Variant, str, int]
Mode = Literal["one", "compare", "strip"]
_STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = Bound(1, 16)
_REFINE = 0.65  # How far a person or object may change.
_SHOWN = 384  # Smaller pictures are enlarged, to about this many pixels.


@dataclass(frozen=True, kw_only=True)
class DrawForm:
    """What the page asks for.

    names, weights: of the concepts. mode: "one": pictures of the merged model; "compare": each concept alone and
    merged; "strip": from weak to strong. apart: give each concept its own part of the picture. refine: draw each again,
    enlarged. method: what is done to the concepts before they are merged, see `Session.adjusted`. count: number of
    pictures.
    """

    names: Sequence[str]
    weights: Sequence[float]
    prompt: str
    mode: Mode = "one"
    apart: bool = False
    refine: bool = False
    method: Method = "sum"
    count: int = 1
    seed: int = 0
    steps: int = 20
    guidance: float = 5.0
    sampler: str = "dpmpp_2m"
    negative: str = ""


class Drawn(NamedTuple):
    """pictures: with their captions, each once. columns: for them. path: the PNG with the whole grid."""

    pictures: list[tuple[Image.Image, str]]
    columns: int
    path: Path


def start_drawing(session: Session, form: DrawForm) -> Job:
    """Add the pictures to the queue. Raises: UserError for what can be known to be wrong without drawing."""
    check_number("count", form.count, bound=_MOST)
    if not form.prompt.strip():
        raise UserError("there is no prompt: write what the picture should show")
    entries = session.library.find(list(form.names))
    adapters = [entry.adapter for entry in entries]
    options = draw_options(session, form, entries)
    check_comparison(options, adapters)
    check_adapters(adapters, form.weights, allow_overlap=shares_slots(form.method))
    session.check_base(adapters)
    return session.jobs.add("drawing", lambda job: draw(job, session, form, options, adapters))


def draw_options(session: Session, form: DrawForm, entries: Sequence[Entry]) -> MergeOptions:
    """The options of `python -m merge` that draw the same. Raises: UserError for numbers out of bounds."""
    options = MergeOptions(
        files=tuple(entry.path for entry in entries), weights=tuple(map(float, form.weights)), prompt=(form.prompt,),
        method=form.method, side_by_side=form.apart, count=int(form.count), seed=int(form.seed),
        refine=_REFINE if form.refine and form.apart else 0.0,
        compare=form.mode == "compare", strip_weights=_STRIP if form.mode == "strip" else (), steps=int(form.steps),
        guidance_scale=float(form.guidance), sampler=form.sampler, negative_prompt=form.negative,
        model=session.options.model or "pocket",
    )  # fmt: skip
    check_picture_options(options)
    return options


def draw(job: Job, session: Session, form: DrawForm, options: MergeOptions, adapters: Sequence[Adapter]) -> Drawn:
    """Draw all cells of the grid, one at a time, and write them as one PNG with a record of how they were made."""
    grid = plan_grid(options, adapters)
    pictures: dict[_Key, UInt8[np.ndarray, "h w 3"]] = {}
    cells: dict[_Key, Cell] = {(cell.variant, cell.prompt, cell.index): cell for cell in grid.cells}
    known: set[Variant] = set()
    for number, (key, cell) in enumerate(cells.items()):
        adjusts = form.method != "sum" and len(cell.variant.adapters) > 1 and cell.variant not in known
        known.add(cell.variant)
        before = f"{ADJUSTING[form.method]}, then " if adjusts else ""
        job.say(f"{before}picture {number + 1} of {len(cells)}", number / len(cells))
        pictures[key] = _draw_cell(session, options, form.method, adapters, cell)
    images = np.stack([pictures[cell.variant, cell.prompt, cell.index] for cell in grid.cells])
    captions = [cell.caption for cell in grid.cells]
    scale = max(1, _SHOWN // images.shape[1])
    record = picture_record(session.sd, adapters, options, grid.cells, images.shape[1:3])
    path = _next_file(session.library.root / "pictures")
    write_atomic(path, png_bytes(picture_grid(images, captions, grid.columns, scale), {RECORD: record}))
    shown = [(_enlarge(pictures[key], scale), _short(cell, options.prompt[0])) for key, cell in _in_order(cells)]
    return Drawn(shown, _columns(options, shown), path)


def _draw_cell(
    session: Session, options: MergeOptions, method: Method, adapters: Sequence[Adapter], cell: Cell
) -> UInt8[np.ndarray, "h w 3"]:
    chosen = [adapters[place] for place in cell.variant.adapters]
    model = session.merged(chosen, cell.variant.weights, method)
    sampling = Sampling(steps=options.steps, guidance_scale=options.guidance_scale, sampler=options.sampler)
    return session.draw(
        model, cell.prompt, cell.index, options.seed, sampling, options.refine,
        negative_prompts=[options.negative_prompt] if options.negative_prompt else None,
        regions=[model.side_by_side(cell.prompt)] if options.side_by_side else None,
    )  # fmt: skip


def suggest_prompt(adapters: Sequence[Adapter]) -> str:
    """A prompt that calls the concepts: people and objects, in a scene and in a style.

    >>> suggest_prompt([])
    'a photo of a dog on a beach'
    """
    triggers: dict[str, list[str]] = {}
    for adapter in adapters:
        kind = adapter.info.kind if adapter.info.kind in ("scene", "style") else "subject"
        triggers.setdefault(kind, []).append(adapter.info.trigger)
    subjects = " and ".join(triggers.get("subject", [])) or "a dog"
    style = f"a {triggers['style'][0]}" if "style" in triggers else "a photo"
    scene = f"in a {triggers['scene'][0]}" if "scene" in triggers else "on a beach"
    return f"{style} of {subjects} {scene}"


def _in_order(cells: Mapping[_Key, Cell]) -> list[tuple[_Key, Cell]]:
    """The cells by noise; for each noise first the concepts alone, then the merged model. A strip stays as it is."""
    return sorted(cells.items(), key=lambda item: (item[1].index, len(item[1].variant.adapters)))


def _columns(options: MergeOptions, pictures: Sequence[object]) -> int:
    """As many as there are pictures of one noise, or two."""
    whole = len(pictures) // options.count
    return whole if options.compare or options.strip_weights else min(2, len(pictures))


def _short(cell: Cell, prompt: str) -> str:
    """The caption without the prompt, which is the same for all pictures; "picture 2" if nothing is left."""
    return cell.caption.removesuffix(prompt).removesuffix(": ") or f"picture {cell.index + 1}"


def _enlarge(image: UInt8[np.ndarray, "h w 3"], scale: int) -> Image.Image:
    picture = Image.fromarray(image)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.LANCZOS)


def _next_file(folder: Path) -> Path:
    """The first file 0001.png, 0002.png, … that is not there. The folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(path.stem) for path in folder.glob("[0-9]*.png") if path.stem.isdecimal()]
    return folder / f"{max(taken, default=0) + 1:04d}.png"
