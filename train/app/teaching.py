"""Teaching a concept: from the page's form to a training run, and runs that can be continued."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blocklora_jax.adapters.partition import slot_from_name
from blocklora_jax.checks.names import same_name
from blocklora_jax.errors import UserError
from blocklora_jax.pocket.concepts import CONCEPTS
from blocklora_jax.prompts.shares import Kind
from train.app.jobs import Job, Progress
from train.app.session import Session
from train.app.settings import training_settings
from train.app.taught import Training
from train.app.unfinished import read_run, runs_to_continue
from train.app.uploads import copy_uploads
from train.concept.config import ConceptConfig
from train.concept.run import train_on_base
from train.engine.log import last_metrics
from train.engine.stop import stopped_by


@dataclass(frozen=True, kw_only=True)
class TeachForm:
    """What the page asks for.

    name: of the concept; its token is <name>. noun: what it is. kind: what sort of concept it is. steps: of training.
    files: uploaded pictures, captions and masks. example: the name of a packaged concept, whose pictures are taken
    instead; "" for none. keep_shape, crop_to_mask, mirror, prefix: see `DataSettings`.
    """

    name: str
    noun: str
    kind: Kind = "object"
    steps: int = 500
    files: Sequence[Path] = ()
    example: str = ""
    keep_shape: bool = False
    crop_to_mask: bool = False
    mirror: bool = False
    prefix: str = ""


def concept_config(session: Session, form: TeachForm, images: Path | None = None) -> ConceptConfig:
    """The configuration of a new run in the library.

    images: the folder of its pictures, or a packaged concept. None: "pictures" in the folder of the run.

    Raises: UserError as the command line does, and for a name that is taken.
    """
    name = form.name.strip().lower()
    if not name:
        raise UserError("the concept has no name: write one, such as ada")
    base = training_settings(session.options)
    config = base.with_settings(
        images=images or Path("pictures"), token=f"<{name}>", class_noun=form.noun.strip(), kind=form.kind,
        steps=int(form.steps), aspect_buckets=form.keep_shape, crop_to_mask=form.crop_to_mask, flip=form.mirror,
        caption_prefix=form.prefix.strip() or None, out=session.library.root / "new", preview_prompts=(),
        previews=True, preview_every=max(1, int(form.steps) // 4), save_every=max(1, int(form.steps) // 4),
        log_every=1 if form.steps <= 50 else 5, resume=False, slot=None,
    )  # fmt: skip
    out = session.library.new_folder(name)
    if any(same_name(training.folder.name) == same_name(out.name) for training in _pending(session)):
        raise UserError(f"{name} is being taught already: choose another name, or wait until it is done")
    return config.with_settings(images=images or out / "pictures", out=out, slot=_free_slot(session, config))


def start_teaching(session: Session, form: TeachForm) -> Job:
    """Add the training of a new concept to the queue. Uploaded pictures are kept in the concept's folder.

    Raises: UserError for a form or files that cannot be used.
    """
    if form.example:
        config = concept_config(session, form, _example(form.example))
        return _add(session, config)
    config = concept_config(session, form)
    try:
        copy_uploads(form.files, config.images)
        return _add(session, config, uploaded=config.images)
    except (UserError, OSError):
        # As when the disk or the queue is full. The name can be used again.
        _discard(config)
        raise


def continue_teaching(session: Session, name: str) -> Job:
    """Add the rest of an interrupted training to the queue. Raises: UserError if there is no such run."""
    runs = {folder.name: folder for folder in runs_to_continue(session.library)}
    if name not in runs:
        raise UserError(f"there is no interrupted training {name!r}: there are {', '.join(runs) or 'none'}")
    if any(training.folder == runs[name] for training in _pending(session)):
        raise UserError(f"{name} is being taught already: wait until it is done")
    config = read_run(runs[name])
    options = session.options
    if (config.model, config.base.variant) != (options.model, options.variant):
        raise UserError(
            f"{name} was begun on the model {config.model}: start the app with the same --model and --variant"
        )
    return _add(session, config.with_settings(resume=True, out=runs[name]))


def teaching_progress(folder: Path, steps: int) -> Progress:
    """How far the training in a folder is."""
    done = int(last_metrics(folder).get("step", 0))
    if not done:
        return Progress("reading the pictures and compiling; the first time this takes a minute or more")
    if done >= steps:
        return Progress("drawing the last previews", 1.0)
    return Progress(f"step {done} of {steps}", done / steps)


def _add(session: Session, config: ConceptConfig, uploaded: Path | None = None) -> Job:
    def work(job: Job) -> Path:
        job.watch = lambda: teaching_progress(config.out, config.steps)
        try:
            with stopped_by(job.stop):
                return train_on_base(config, lambda: session.sd)
        finally:
            # A run that could not begin leaves nothing, so that its name can be used again.
            if uploaded and not (config.out / "config.json").exists():
                _discard(config)

    job = session.jobs.add(f"teaching {config.name}", work)
    session.trainings.append(Training(job, config.out, config.steps, config.trigger, config.adapter.slot or ()))
    return job


def _discard(config: ConceptConfig) -> None:
    """Remove uploaded pictures, and the folder of their run if nothing else is in it."""
    shutil.rmtree(config.images, ignore_errors=True)
    if config.out.is_dir() and not any(config.out.iterdir()):
        config.out.rmdir()


def _pending(session: Session) -> list[Training]:
    """The trainings that wait or run. Those that wait have written nothing into the library yet."""
    return [training for training in session.trainings if training.is_pending]


def _free_slot(session: Session, config: ConceptConfig) -> tuple[int, ...] | None:
    """The slot that the concept's name gives, or the lowest free one if the library or the queue has it already."""
    library = session.library
    blocks = config.adapter.blocks
    if not blocks or config.adapter.registry:
        return None
    taken = {slot for entry in library.entries()[0] for slot in entry.adapter.info.slots}
    for folder in runs_to_continue(library):
        # A run that this version cannot read cannot be continued here, and must not prevent others.
        with suppress(UserError):
            taken |= set(read_run(folder).adapter.slot or ())
    for training in _pending(session):
        taken |= set(training.slots)
    own = slot_from_name(config.name, blocks)
    free = [slot for slot in range(blocks) if slot not in taken]
    if not free:
        raise UserError(
            f"all {blocks} slots are taken by the concepts of the library: remove one, or use another --out"
        )
    return (own if own in free else free[0],)


def _example(name: str) -> Path:
    if name not in CONCEPTS:
        raise UserError(f"there is no packaged concept {name!r}; there are {', '.join(CONCEPTS)}")
    return Path(name)
