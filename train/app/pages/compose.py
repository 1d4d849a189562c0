"""The page "Compose": concepts of the library in one model; pictures; how much they disturb each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gradio as gr

from blocklora_jax.diffusion.samplers.table import SAMPLERS
from blocklora_jax.io.printing import one_line
from train.app.crosstalk_advice import start_measuring
from train.app.drawing import DrawForm, start_drawing, suggest_prompt
from train.app.pages.handlers import heading, notice, one_line_errors
from train.app.pages.method_choice import method_choice
from train.app.pages.picker import Picker, tiles
from train.app.session import Method, Session

_ROW = 128  # pixels that a row of the library needs
_WIDE = 700  # pixels in which the drawn pictures lie side by side
_MODES = [
    ("pictures of all together", "one"),
    ("each alone, and merged", "compare"),
    ("from weak to strong", "strip"),
]


_LEGEND = (
    "The table: how much the adapter of a column puts out on the prompts of a row, as a share of that concept's own"
    " output. 0 is nothing; 1 is as much as the concept itself."
)


class ComposePage:
    """The page. `refresh` is an event that renews its library."""

    def __init__(self, session: Session) -> None:
        self._session = session
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                self._library_view()
                self.picker = Picker(session)
                self._settings()
            with gr.Column(scale=3, min_width=440):
                self._prompt()
                self.pictures = gr.Gallery(
                    show_label=False, columns=2, height="auto", elem_id="pictures", buttons=["download", "fullscreen"]
                )
                self.saved = gr.HTML()
                self._crosstalk()
        self._events()

    @property
    def refresh(self) -> tuple[Any, Any, list[Any]]:
        """A function, its inputs and its outputs: the library as it is now."""
        shown = [self.picker.names, self.picker.seen]
        return self._renewed, shown, [self.gallery, self.problems, *shown]

    def _library_view(self) -> None:
        gr.HTML(heading("Library: click a picture to choose it"))
        self.gallery = gr.Gallery(
            show_label=False, columns=4, height=_ROW, fit_columns=False, allow_preview=False, object_fit="cover",
            elem_id="library", buttons=[],
        )  # fmt: skip
        self.problems = gr.HTML()
        self.upload = gr.UploadButton("Add an adapter file", file_types=[".safetensors"], size="sm")

    def _prompt(self) -> None:
        suggestion = suggest_prompt([])
        self.suggested = gr.State(suggestion)
        self.prompt = gr.Textbox(
            suggestion, label="Prompt", lines=2, max_length=4000, elem_id="prompt",
            info="Call concepts by the words in angle brackets, as in the list of concepts.",
        )  # fmt: skip
        self.mode = gr.Radio(_MODES, value="one", label="Draw")
        self.apart = gr.Checkbox(False, label="Several in one picture: give each its own part, from left to right")
        self.refine = gr.Checkbox(False, label="Then draw each of these again, enlarged: better likeness, takes longer")
        self.button = gr.Button("Draw", variant="primary", elem_id="draw")

    def _settings(self) -> None:
        self.method = method_choice()
        self.count = gr.Slider(1, 8, value=1, step=1, label="Number of pictures")
        self.seed = gr.Number(value=0, precision=0, label="Seed", info="The same seed gives the same noise.")
        with gr.Accordion("More settings", open=False):
            self.steps = gr.Slider(1, 100, value=20, step=1, label="Sampling steps")
            self.guidance = gr.Slider(
                1, 15, value=5, step=0.5, label="Guidance", info="How closely to follow the prompt"
            )
            self.sampler = gr.Dropdown(list(SAMPLERS), value="dpmpp_2m", label="Sampler")
            self.negative = gr.Textbox(label="What pictures should not show", max_length=4000)
            gr.HTML(notice("After a change of steps or sampler, the next picture is compiled first."))

    def _crosstalk(self) -> None:
        with gr.Accordion("Do the chosen concepts disturb each other?", open=True):
            self.measure = gr.Button("Measure", elem_id="measure")
            self.advice = gr.HTML(elem_id="advice")
            self.heat = gr.Image(
                visible=False, interactive=False, show_label=False, elem_id="heat", buttons=["fullscreen"]
            )

    def _events(self) -> None:
        session, picker = self._session, self.picker
        more = [
            self.prompt, self.mode, self.apart, self.refine, self.method, self.count, self.seed, self.steps,
            self.guidance, self.sampler, self.negative,
        ]  # fmt: skip
        guard = lambda handler: one_line_errors(session, handler)
        picker.on_change("choose", self._suggest, [self.prompt, self.suggested], [self.prompt, self.suggested])
        self.gallery.select(self._toggle, picker.names, picker.names, api_visibility="private", show_progress="hidden")
        self.button.click(
            guard(self._draw), [*picker.inputs, *more], [self.pictures, self.saved], api_name="draw",
            show_progress_on=self.pictures, concurrency_limit=4,
        )  # fmt: skip
        self.measure.click(
            guard(self._measure), [picker.names, self.method], [self.advice, self.heat], api_name="crosstalk"
        )
        self.upload.upload(guard(self._add), self.upload, self.problems, api_name="add_adapter").then(*self.refresh)

    def _renewed(self, names: list[str] | None, seen: list[str]) -> tuple[Any, str, Any, list[str]]:
        entries, problems = self._session.library.entries()
        lines = [notice(f"Cannot be read: {line}", "bad") for line in problems]
        if not entries and not problems:
            lines = [notice("The library is empty: teach a concept, or add an adapter file.")]
        height = _ROW * max(1, math.ceil(len(entries) / 4))
        boxes, labels = self.picker.refreshed(names, seen)
        pictures = gr.skip() if labels == seen else gr.update(value=tiles(entries), height=height)
        return pictures, "".join(lines), boxes, labels

    def _suggest(self, names: list[str], prompt: str, suggested: str) -> tuple[Any, str]:
        """A prompt for the chosen concepts, unless the user has written one."""
        known = {entry.name: entry.adapter for entry in self._session.library.entries()[0]}
        text = suggest_prompt([known[name] for name in names if name in known])
        return (text if prompt in ("", suggested) else gr.skip()), text

    def _toggle(self, names: list[str], event: gr.SelectData) -> list[str]:
        entries, _ = self._session.library.entries()
        place = event.index if isinstance(event.index, int) else event.index[0]
        name = entries[place].name if place < len(entries) else ""
        return [kept for kept in names if kept != name] if name in names else [*names, *([name] if name else [])]

    def _draw(self, *values: Any) -> tuple[Any, str]:
        names, weights, more = self.picker.split(values)
        prompt, mode, apart, refine, method, count, seed, steps, guidance, sampler, negative = more
        form = DrawForm(
            names=names, weights=weights, prompt=prompt or "", mode=mode, apart=apart, refine=refine, method=method,
            count=count, seed=seed or 0, steps=steps, guidance=guidance, sampler=sampler, negative=negative or "",
        )  # fmt: skip
        drawn = start_drawing(self._session, form).outcome()
        rows = math.ceil(len(drawn.pictures) / drawn.columns)
        height = rows * _WIDE // drawn.columns + 20
        shown = gr.update(value=drawn.pictures, columns=drawn.columns, height=height)
        return shown, notice(f"Kept as {one_line(drawn.path)}.")

    def _measure(self, names: list[str] | None, method: Method) -> tuple[str, Any]:
        found = start_measuring(self._session, names or [], method).outcome()
        return "".join(map(notice, [*found.advice, _LEGEND])), gr.update(value=found.picture, visible=True)

    def _add(self, path: str) -> str:
        entry = self._session.library.add_file(Path(path))
        return notice(f"{entry.name} was added.", "good")
