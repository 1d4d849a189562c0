"""The bar above all pages: what is running, how far it is, what waits, and the button that stops it."""

from __future__ import annotations

import html

import gradio as gr

from train.app.pages.handlers import one_line_errors
from train.app.session import Session


def status_bar(session: Session, timer: gr.Timer) -> None:
    """Add the bar. It is renewed at every tick of `timer`."""
    with gr.Row(elem_classes="bar", equal_height=True):
        shown = gr.HTML(bar_text(session), elem_id="status")
        button = gr.Button("Stop", variant="stop", scale=0, min_width=110, elem_id="stop")
    before = gr.State("")

    def renew(previous: str):
        text = bar_text(session)
        return (text, text) if text != previous else (gr.skip(), gr.skip())

    timer.tick(renew, before, [shown, before], show_progress="hidden", api_visibility="private")
    button.click(one_line_errors(session, lambda: _stop(session)), None, shown, api_name="stop")


def bar_text(session: Session) -> str:
    """The content of the bar as HTML."""
    jobs = session.jobs.jobs()
    if not jobs:
        return '<div class="job idle">Nothing is running.</div>'
    running, *waiting = jobs
    note, share = running.progress
    if running.stop.is_set():
        note = "stopping, as soon as this step is done"
    words = html.escape(f"{running.title.capitalize()}: {note}" if note else running.title.capitalize())
    later = html.escape(f" Then: {', '.join(job.title for job in waiting)}.") if waiting else ""
    width = 100 * (share or 0)
    kind = "" if share is not None else " unknown"
    return (
        f'<div class="job">{words}.{later}'
        f'<div class="track{kind}"><div class="done" style="width:{width:.1f}%"></div></div></div>'
    )


def _stop(session: Session) -> str:
    if not session.jobs.stop():
        gr.Info("Nothing is running.")
    return bar_text(session)
