"""The training as it runs: where it is, the loss curve, the previews; and runs that can be continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from blocklora_jax.errors import UserError
from blocklora_jax.io.open_picture import open_picture, to_rgb
from train.app.curve import draw_curve, read_losses
from train.app.library import previews
from train.app.pages.handlers import heading, notice, one_line_errors
from train.app.session import Session
from train.app.taught import Training, shown_training
from train.app.teaching import continue_teaching
from train.app.unfinished import runs_to_continue

# A function, its inputs and its outputs, as Gradio's events take them.
Event = tuple[Any, Any, list[Any]]


def training_view(session: Session, timer: gr.Timer) -> Event:
    """Add the view. Gives the event that renews it."""
    with gr.Column(visible=False) as group:
        gr.HTML(heading("Training"))
        state = gr.HTML(elem_id="training")
        curve = gr.HTML(elem_id="curve")
        title = gr.HTML()
        preview = gr.Image(
            show_label=False, interactive=False, elem_id="preview", buttons=["fullscreen", "download"], visible=False
        )
    with gr.Row(visible=False, equal_height=True) as row:
        runs = gr.Dropdown([], label="Interrupted trainings", scale=3, elem_id="interrupted")
        button = gr.Button("Continue", scale=1, elem_id="continue")
    before = gr.State(None)
    outputs = [group, state, curve, title, preview, row, runs, before]

    def renew(seen: Any):
        """Only what has changed is sent, so that the page does not flicker."""
        training = shown_training(session.trainings)
        unfinished = _to_continue(session)
        now = (*_signature(training), tuple(unfinished))
        if now == seen:
            return [gr.skip()] * len(outputs)
        shows = [gr.skip()] * 5 if training is None else [gr.update(visible=True), *_shown(training, seen, now)]
        return [*shows, gr.update(visible=bool(unfinished)), _choices(unfinished), now]

    def resume(name: str):
        if not name:
            raise UserError("choose an interrupted training")
        continue_teaching(session, name)
        return renew(None)

    timer.tick(renew, before, outputs, show_progress="hidden", api_name="training", api_visibility="undocumented")
    button.click(one_line_errors(session, resume), runs, outputs, api_name="continue_teaching")
    return renew, before, outputs


def _to_continue(session: Session) -> list[str]:
    """Names of interrupted runs; not those that run or wait now."""
    busy = {training.folder for training in session.trainings if training.is_pending}
    return [folder.name for folder in runs_to_continue(session.library) if folder not in busy]


def _choices(names: list[str]) -> Any:
    return gr.update(choices=names, value=names[0] if names else None)


def _signature(training: Training | None) -> tuple[Any, ...]:
    """What the view shows; equal if it need not change."""
    if training is None:
        return None, "", 0, ""
    grids = previews(training.folder)
    points = read_losses(training.folder)
    return training.folder, training.line(), len(points), str(grids[-1]) if grids else ""


def _shown(training: Training, seen: Any, now: tuple[Any, ...]) -> tuple[Any, Any, Any, Any]:
    path, is_same = now[3], seen is not None and seen[3] == now[3]
    picture = gr.skip() if is_same else gr.update(value=_open(path), visible=bool(path))
    title = heading(f"Pictures after {int(Path(path).stem)} steps") if path else ""
    kind = {"done": "good", "failed": "bad"}.get(training.job.state, "info")
    return notice(training.line(), kind), _curve(training), title, picture


def _curve(training: Training) -> str:
    """The loss curve and what it shows; "" before the first step."""
    svg = draw_curve(read_losses(training.folder), training.steps)
    return heading("Loss on the pictures: each step pale, the average dark") + svg if svg else ""


def _open(path: str) -> Any:
    """The picture; None while it is being replaced, or if there is none."""
    try:
        return open_picture(Path(path), to_rgb) if path else None
    except UserError:
        return None
