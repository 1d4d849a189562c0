"""The page "Teach": a form, what would be trained on, and the training as it runs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from blocklora_jax.pocket.concepts import CONCEPTS
from blocklora_jax.pocket.references import reference_folder
from train.app.pages.handlers import heading, notice, one_line_errors, table
from train.app.pages.training_view import training_view
from train.app.session import Session
from train.app.teaching import TeachForm, concept_config, start_teaching
from train.app.uploads import KINDS, copy_uploads
from train.concept.picture_check import check_pictures

_OWN = "my own pictures"
_KINDS = [("a person", "person"), ("an animal or a thing", "object"), ("a place", "scene"), ("a style", "style")]


def teach_page(session: Session, timer: gr.Timer) -> None:
    """Add the page. The view of the training is renewed at every tick of `timer`."""
    with gr.Row():
        with gr.Column(scale=2, min_width=340):
            inputs = _form()
            source, files, name, noun, kind, *_ = inputs
            with gr.Row():
                check = gr.Button("1. Check the pictures", elem_id="check")
                start = gr.Button("2. Start teaching", variant="primary", elem_id="teach")
        with gr.Column(scale=3, min_width=440):
            note = gr.HTML(notice("Add pictures, or choose an example, and check them: you see here what is trained."))
            with gr.Column(visible=False) as checked:
                gr.HTML(heading("What is trained: the part in the green frame; what a mask leaves out is red"))
                sheet = gr.Image(show_label=False, interactive=False, buttons=["fullscreen"])
                with gr.Accordion("File by file", open=False):
                    rows = gr.HTML()
                with gr.Accordion("The training pictures, as the model sees them", open=False):
                    crops = gr.Gallery(columns=4, show_label=False, height="auto", buttons=[])
            view = training_view(session, timer)
    filled = [files, name, noun, kind]
    source.change(_fill_example, source, filled, api_visibility="private", show_progress="hidden")

    def show_check(*values: Any):
        report = _check(session, _read(*values))
        ignored = [notice(line) for line in report.ignored]
        cells = table(["file", "what happens", "caption"], report.rows)
        return (
            notice(f"{report.note}.", "good" if "skipped" not in report.note else "bad") + "".join(ignored),
            gr.update(visible=True), report.sheet, cells, report.crops,
        )  # fmt: skip

    def show_start(*values: Any):
        job = start_teaching(session, _read(*values))
        return notice(f"{job.title.capitalize()}: the progress is above and below.", "good")

    check.click(
        one_line_errors(session, show_check), inputs, [note, checked, sheet, rows, crops], api_name="check_pictures"
    )
    start.click(one_line_errors(session, show_start), inputs, note, api_name="teach").then(*view)


def _form() -> list[Any]:
    """The form: its fields, in the order of `_read`."""
    source = gr.Dropdown([_OWN, *CONCEPTS], value=_OWN, label="Pictures", info="Your own, or an example to try it out.")
    label = "Six or more pictures of one concept; captions and masks"
    files = gr.File(file_count="multiple", file_types=list(KINDS), label=label, height=190)
    with gr.Row():
        name = gr.Textbox(label="Name", placeholder="ada", info="Prompts call it <ada>.", max_length=40, elem_id="name")
        noun = gr.Textbox(label="What it is", placeholder="woman", info="A word that the model knows.", max_length=40)
    kind = gr.Radio(_KINDS, value="object", label="It is")
    steps = gr.Slider(
        2, 2000, value=500, step=1, label="Steps", info="More steps are closer to the pictures, and take longer.",
        elem_id="steps",
    )  # fmt: skip
    with gr.Accordion("More settings", open=False):
        shape = gr.Checkbox(False, label="Keep the shape of portraits and landscapes, instead of cutting a square")
        mask = gr.Checkbox(False, label="Cut around the masks (photo.mask.png is the mask of photo.png)")
        mirror = gr.Checkbox(False, label="Also train on mirrored pictures")
        prefix = gr.Textbox(
            label="Words before every caption", placeholder="a photo of {trigger},",
            info="For caption files (photo.txt) that do not name the concept.", max_length=200,
        )  # fmt: skip
    return [source, files, name, noun, kind, steps, shape, mask, mirror, prefix]


def _read(source: str, files: Any, name: str, noun: str, kind: str, steps: float, *more: Any) -> TeachForm:
    shape, mask, mirror, prefix = more
    kinds: Any = kind
    return TeachForm(
        name=name or "", noun=noun or "", kind=kinds, steps=int(steps), files=[Path(file) for file in files or []],
        example="" if source == _OWN else source, keep_shape=shape, crop_to_mask=mask, mirror=mirror,
        prefix=prefix or "",
    )  # fmt: skip


def _check(session: Session, form: TeachForm):
    """See `check_pictures`. Uploaded files lie in a temporary folder while they are read."""
    if form.example:
        return check_pictures(concept_config(session, form, Path(form.example)), session.sd)
    with tempfile.TemporaryDirectory() as folder:
        config = concept_config(session, form, Path(folder) / "pictures")
        copy_uploads(form.files, config.images)
        return check_pictures(config, session.sd)


def _fill_example(source: str) -> tuple[Any, Any, Any, Any]:
    """The name, the noun and the kind of an example, which needs no files."""
    if source not in CONCEPTS:
        return gr.update(visible=True), gr.skip(), gr.skip(), gr.skip()
    about = json.loads((reference_folder(source) / "concept.json").read_text())
    return (
        gr.update(visible=False),
        source,
        about["class_noun"],
        "object" if about["kind"] == "animal" else about["kind"],
    )
