"""Sharing: files for other programs, the model card, and the hub."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.checks.names import plain_name
from blocklora_jax.composing.check import check_adapters
from blocklora_jax.composing.compose import compose
from blocklora_jax.errors import UserError
from blocklora_jax.io.dtype_names import ModelDtype
from merge.cli.merge import save_merged
from merge.cli.options import MergeOptions
from merge.export.lora_file import LAYOUTS, export
from merge.methods.method import Merged
from train.app.jobs import Job
from train.app.library import Entry, previews
from train.app.session import ADJUSTING, Method, Session, shares_slots
from train.app.uploads import free_name

# What can be written, besides the layouts of LoRA files.
ADAPTERS, FOLDER, SINGLE = "adapters", "folder", "single"
_LABELS = {
    "diffusers": "LoRA for diffusers",
    "kohya": "LoRA for ComfyUI and A1111 (kohya)",
    ADAPTERS: "The adapters themselves, for blocklora: others can merge them with theirs",
    FOLDER: "The whole merged model, as a Diffusers folder",
    SINGLE: "The whole merged model, as one file for ComfyUI and A1111",
}
_REPOSITORY = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")


@dataclass(frozen=True, kw_only=True)
class ShareForm:
    """What the page asks for.

    names, weights: of the concepts. name: of the files. form: a key of `forms()`. method: what is done to the concepts
    before they are merged, see `Session.adjusted`.
    """

    names: Sequence[str]
    weights: Sequence[float]
    name: str
    form: str = "diffusers"
    dtype: ModelDtype = "float32"
    method: Method = "sum"


class Exported(NamedTuple):
    """folder: where the files are. files: in it, by name. card: the text of the model card, "" if there is none."""

    folder: Path
    files: list[str]
    card: str


def forms() -> dict[str, str]:
    """What can be written: {key: its name for people}."""
    known = {**dict.fromkeys(LAYOUTS), ADAPTERS: None, FOLDER: None, SINGLE: None}
    return {key: _LABELS.get(key, f"LoRA in the layout {key}") for key in known}


def start_export(session: Session, form: ShareForm) -> Job:
    """Add the export to the queue. Raises: UserError for what can be known to be wrong before."""
    if form.form not in forms():
        raise UserError(f"unknown form {form.form!r}: choose {', '.join(forms())}")
    name, entries = plain_name(form.name.strip(), "the name of the files"), _chosen(session, form)
    return session.jobs.add("exporting", lambda job: _export(job, session, form, name, entries))


def preview_card(session: Session, form: ShareForm) -> str:
    """The model card of a LoRA of these concepts. The files are written for it, into a folder that is removed."""
    name, entries = plain_name(form.name.strip(), "the name of the files"), _chosen(session, form)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        layout = form.form if form.form in LAYOUTS else "diffusers"
        export(
            [entry.adapter for entry in entries], path, layout, form.weights, allow_overlap=shares_slots(form.method)
        )
        return (Path(folder) / "README.md").read_text(encoding="utf-8")


def start_push(session: Session, name: str, repository: str, private: bool = True) -> Job:
    """Add an upload of one concept to the hub, with its card and its last previews, to the queue.

    The job's result is a line for the page. private: whether only the owner may see a new repository.

    Raises: UserError for a bad name of the repository, or if this version has no connection to the hub.
    """
    [entry], repository = session.library.find([name]), repository.strip()
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} is no repository of the hub: write user/name")
    push: Any = getattr(entry.adapter, "push_to_hub", None)
    if push is None:
        raise UserError(
            "this version of blocklora_jax cannot push to the hub: export the adapters, and upload the files at"
            " huggingface.co/new"
        )

    def work(job: Job) -> str:
        job.say(f"uploading {entry.name}")
        address = push(repository, private=private, pictures=previews(entry.folder)[-1:])
        return f"{entry.name} is at {address}"

    return session.jobs.add(f"pushing {entry.name}", work)


def pack(exported: Exported, folder: Path) -> Path:
    """A ZIP of exported files in `folder`, for a browser to download."""
    path = free_name(folder, f"{exported.folder.name}.zip")
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for name in exported.files:
            archive.write(exported.folder / name, f"{exported.folder.name}/{name}")
    return path


def _chosen(session: Session, form: ShareForm) -> list[Entry]:
    entries = session.library.find(list(form.names))
    if not entries:
        raise UserError("choose at least one concept")
    check_adapters([entry.adapter for entry in entries], form.weights, allow_overlap=shares_slots(form.method))
    return entries


def _export(job: Job, session: Session, form: ShareForm, name: str, entries: Sequence[Entry]) -> Exported:
    adapters = [entry.adapter for entry in entries]
    if form.method != "sum":
        job.say(ADJUSTING[form.method])
        session.check_base(adapters)
        adapters = session.adjusted(adapters, form.method, form.weights)
    job.say("writing the files")
    folder = free_name(session.library.root / "exports", name)
    folder.mkdir(parents=True)
    try:
        _write(session, form, folder, name, adapters, entries)
    except BaseException:
        shutil.rmtree(folder)  # Nothing half-written is left.
        raise
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    card = folder / "README.md"
    return Exported(folder, files, card.read_text(encoding="utf-8") if card.exists() else "")


def _write(
    session: Session, form: ShareForm, folder: Path, name: str, adapters: list[Adapter], entries: Sequence[Entry]
) -> None:
    if form.form in LAYOUTS:
        path = folder / f"{name}.safetensors"
        export(adapters, path, form.form, form.weights, form.dtype, allow_overlap=shares_slots(form.method))
    elif form.form == ADAPTERS:
        for entry, adapter in zip(entries, adapters, strict=True):
            adapter.save(folder / f"{entry.name}.safetensors", form.dtype)
    else:
        _write_model(session, form, folder / (f"{name}.safetensors" if form.form == SINGLE else name), adapters)


def _write_model(session: Session, form: ShareForm, path: Path, adapters: list[Adapter]) -> None:
    """Write the whole merged model, from the base's weights as they are in its files."""
    session.check_base(adapters)
    base = replace(session.sd, params=session.sd.checkpoint.params, weights_dtype=None)
    weights = list(map(float, form.weights))
    params = compose(base.params, adapters, weights, allow_overlap=shares_slots(form.method), check_base=False)
    model = base.with_params(params, adapters, weights)
    options = MergeOptions(files=(), method=form.method, save=path, dtype=form.dtype)
    save_merged(model, Merged(params, adapters), options)
