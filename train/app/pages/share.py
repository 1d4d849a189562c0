"""The page "Share": files for other programs, the model card, and the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from blocklora_jax.errors import UserError
from blocklora_jax.io.dtype_names import ModelDtype
from blocklora_jax.io.printing import one_line
from train.app.pages.handlers import heading, notice, one_line_errors, table
from train.app.pages.method_choice import method_choice
from train.app.pages.picker import Picker
from train.app.session import Session
from train.app.sharing import ShareForm, forms, pack, preview_card, start_export, start_push


class SharePage:
    """The page. `refresh` is an event that renews its library. downloads: a folder for ZIP files."""

    def __init__(self, session: Session, downloads: Path) -> None:
        self._session, self._downloads = session, downloads
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                self.picker = Picker(session)
                self._form()
            with gr.Column(scale=3, min_width=440):
                self.note = gr.HTML(notice("Choose concepts. The model card tells others how to use the files."))
                self.files = gr.File(label="Download", visible=False, interactive=False, elem_id="download")
                with gr.Column(visible=False) as self.shown:
                    gr.HTML(heading("Model card"))
                    self.card = gr.Markdown(elem_id="card", container=True)
        self._events()

    @property
    def refresh(self) -> tuple[Any, Any, Any]:
        """A function, its inputs and its outputs: the library as it is now."""
        shown = [self.picker.names, self.picker.seen]
        return self.picker.refreshed, shown, shown

    def _form(self) -> None:
        self.name = gr.Textbox("my-concepts", label="Name of the files", max_length=100, elem_id="filename")
        self.form = gr.Radio([(label, key) for key, label in forms().items()], value="diffusers", label="Write")
        self.dtype = gr.Dropdown(
            list(get_args(ModelDtype)), value="float32", label="Numbers", info="float16 is half the size."
        )
        self.method = method_choice()
        with gr.Row():
            self.preview = gr.Button("Show the model card", elem_id="show-card")
            self.button = gr.Button("Export", variant="primary", elem_id="export")
        with gr.Accordion("Push one concept to the Hugging Face hub", open=False):
            gr.HTML(notice("Log in once, in a terminal: hf auth login. The app asks for no password and no token."))
            self.repository = gr.Textbox(label="Repository", placeholder="user/name", max_length=200)
            self.private = gr.Checkbox(True, label="Only I may see it")
            self.push = gr.Button("Push")

    def _events(self) -> None:
        guard = lambda handler: one_line_errors(self._session, handler)
        self.picker.on_change("choose_to_share", lambda names: [], [])
        inputs = [*self.picker.inputs, self.name, self.form, self.dtype, self.method]
        self.preview.click(guard(self._card), inputs, [self.shown, self.card], api_name="card")
        self.button.click(
            guard(self._export), inputs, [self.note, self.files, self.shown, self.card], api_name="export"
        )
        target = [self.picker.names, self.repository, self.private]
        self.push.click(guard(self._push), target, self.note, api_name="push")

    def _read(self, values: tuple[Any, ...]) -> ShareForm:
        names, weights, (name, form, dtype, method) = self.picker.split(values)
        return ShareForm(names=names, weights=weights, name=name or "", form=form, dtype=dtype, method=method)

    def _card(self, *values: Any) -> tuple[Any, str]:
        return gr.update(visible=True), card_text(preview_card(self._session, self._read(values)))

    def _export(self, *values: Any) -> tuple[str, Any, Any, str]:
        exported = start_export(self._session, self._read(values)).outcome()
        rows = [(name, _size(exported.folder / name)) for name in exported.files]
        shown = notice(f"Written to {one_line(exported.folder)}.", "good") + table(["file", "size"], rows)
        archive = pack(exported, self._downloads)
        card = exported.card
        return shown, gr.update(value=str(archive), visible=True), gr.update(visible=bool(card)), card_text(card)

    def _push(self, names: list[str] | None, repository: str, private: bool) -> str:
        if len(names or []) != 1:
            raise UserError("choose exactly one concept to push")
        return notice(start_push(self._session, (names or [])[0], repository or "", private).outcome(), "good")


def card_text(card: str) -> str:
    """A model card as Markdown to look at: its front matter as a block of code, and no comments."""
    front, mark, text = card.removeprefix("---\n").partition("\n---\n")
    shown = re.sub(r"<!--.*?-->\n?", "", text if mark else card, flags=re.DOTALL)
    return f"```yaml\n{front}\n```\n{shown}" if mark else shown


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.2f} MB" if size > 1e5 else f"{size / 1e3:.1f} kB"
