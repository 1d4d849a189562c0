"""The folder of a run: whether a run may begin or be resumed there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.locks import hold
from blocklora_jax.io.outputs import Output, plan_outputs
from train.concept.config import ConceptConfig
from train.concept.input_record import without_records
from train.concept.settings.flat import with_later
from train.engine.platform import first_host_does

# Settings that may differ when a run is resumed. The results stay the same, up to rounding.
MAY_CHANGE = frozenset(
    "out resume registry save_dtype log_every save_every previews preview_every preview_prompts report tensorboard"
    " wandb tpu gpu cpu mapper remat attention push private license replace".split()
)


# Files and folders that a run writes.
OURS = (
    "adapter.safetensors", "contact_sheet.png", "report.html", "metrics.jsonl", "group.json", "checkpoints",
    "previews", "tensorboard", "wandb",
)  # fmt: skip
# Whether to continue a run; "auto": if there is one.
Resume = bool | Literal["auto"]
_LONGEST = 60  # characters of a setting, in an error


@contextmanager
def hold_run_folders(folders: Sequence[Path], check: Callable[[], None]) -> Iterator[None]:
    """Lock all folders that a training run writes to, then call `check`. The locks are held until the block ends.

    Every host of a pod must enter it. The first host locks and checks. Its errors are raised on all hosts.

    Raises: UserError if another process trains in one of the folders, one cannot be written to, two are the same, or
        `check` raises it.
    """
    with ExitStack() as locks:

        def begin() -> None:
            real = [folder.resolve() for folder in folders]
            if twice := [str(folder) for i, folder in enumerate(folders) if real[i] in real[:i]]:
                raise UserError(f"two trainings would write into {twice[0]}: give each its own folder")
            for folder in folders:
                locks.enter_context(hold(folder, "training in"))
            check()

        first_host_does(begin)
        yield


def with_resuming(configs: Sequence[ConceptConfig], resume: Resume | None) -> list[ConceptConfig]:
    """`configs` of one training, with the setting `resume`. "auto": it is continued if one of them has begun.

    None: as they are.
    """
    if resume is None:
        return list(configs)
    begun = any((config.out / "config.json").exists() for config in configs) if resume == "auto" else resume
    return [config.with_settings(resume=begun) for config in configs]


def keep_off_inputs(configs: Sequence[ConceptConfig], shared: Sequence[Path] = ()) -> None:
    """Raises UserError if an output of the training runs is one of their inputs, or lies in one.

    shared: output folders that all runs write to.
    """
    folders = [config.out for config in configs]
    inner = ("checkpoints", "previews", "tensorboard", "wandb")
    outputs = [Output(folder / "adapter.safetensors", "adapter", typed=folder) for folder in folders]
    outputs += [Output(folder / name, "run", typed=folder) for folder in folders for name in inner]
    outputs += [Output(folder / "contact_sheet.png", "picture", typed=folder) for folder in folders]
    outputs += [Output(folder / "report.html", "report", typed=folder) for folder in folders]
    inputs = [path for c in configs for path in _inputs(c)]
    # Files from earlier runs are checked later, under the lock.
    plan_outputs([*outputs, *(Output(folder, "run") for folder in shared)], inputs, overwrite=True)


def _inputs(config: ConceptConfig) -> tuple[Path | str | None, ...]:
    """The files and folders that a training run reads; None for each one that is not given."""
    return (
        config.images, config.erasure.other_images, config.erasure.class_images, config.model, config.adapter.basis,
        *(config.tokens.negative_tokens or ()),
    )  # fmt: skip


def check_run_dir(config: ConceptConfig) -> None:
    """Raises UserError if the run cannot begin or be resumed in --out.

    It cannot begin in the folder of another run, or where it would replace other files. It cannot be resumed with other
    settings.
    """
    path = config.out / "config.json"
    if path.exists() and not config.run.resume:
        raise UserError(f"{config.out} already holds a run: continue it with --resume, or choose another --out")
    if config.run.resume:
        # The digests of what the run reads are compared later, when it is read.
        before = without_records(_read_settings(path, config.out))
        if changed := changed_settings(before, config):
            raise UserError(f"cannot resume {config.out} with other settings: {'; '.join(changed)}")
    else:
        refuse_others_files(config.out)


def refuse_others_files(folder: Path) -> None:
    """Raises UserError if a new run in `folder` would replace files there or add to them."""
    if taken := [name for name in OURS if os.path.lexists(folder / name)]:
        raise UserError(
            f"{folder} holds {' and '.join(taken)}, but no run that was begun here (it has no config.json): "
            "choose another --out"
        )


def changed_settings(
    before: Mapping[str, Any], config: ConceptConfig, may_change: frozenset[str] = MAY_CHANGE
) -> list[str]:
    """The settings of `config` that differ from those of an earlier run, in words. before: as read from JSON."""
    before, now = with_later(before), with_later(json.loads(json.dumps(config.to_json())))
    changed = [
        f"{k} was {_short(before.get(k))}, now {_short(v)}"
        for k, v in now.items()
        if k not in may_change and before.get(k) != v
    ]
    # A setting of a newer version that was off in that run has no effect.
    unknown = [k for k, v in before.items() if k not in now and v not in (None, False)]
    return changed + [f"{_short(k)} was {_short(before[k])}, which this version does not know" for k in unknown[:3]]


def _read_settings(path: Path, out: Path) -> dict[str, Any]:
    way_out = "put back the one that the run was begun with, or choose another --out"
    if not os.path.lexists(path):
        raise UserError(f"there is no run to resume in {out}: leave out --resume")
    try:
        settings = read_json(path)
    except UserError as error:
        raise UserError(f"{path} is not JSON that settings can be read from ({error}): {way_out}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings of a run: {way_out}")
    return settings


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
