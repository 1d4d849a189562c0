"""Damaged checkpoints of a run: the newest undamaged one is restored exactly, or the damage is reported."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.fuzz.byte_damage import OTHER_LENGTH, SAME_LENGTH, damage
from benchmarks.fuzz.facts import facts_of
from benchmarks.fuzz.not_files import NOT_FILES
from benchmarks.fuzz.trial import Case, Trial, choose
from benchmarks.fuzz.wrong_values import NO_JSON
from train.concept.config import ConceptConfig
from train.concept.run_folder import check_run_dir
from train.engine.checkpoint import Checkpoints

NAME, SECONDS, MOST_MEMORY, QUICK = "checkpoints", 60.0, 512 << 20, 150
_STEPS = (10, 20)
_BYTES = 170  # number of cases with damaged bytes
# Names of other files and folders beside the checkpoints of a run.
_STRAYS = (
    "notes",
    "30",
    "007",
    "20 (copy)",
    "30.orbax-checkpoint-tmp-1764200000",
    "tmp",
    ".DS_Store",
    "9" * 30,
    "-5",
    "1e3",
    "²",
    "٣",
    "\x1b[31mred",
    "30\n",
    "10.5",
    "+20",
)


def prepare(folder: Path, seed: int) -> None:
    """Write the checkpoints of a run at two steps."""
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in _STEPS:
        checkpoints.save(step, _state(step))
    checkpoints.close()


def list_cases(folder: Path, seed: int) -> list[Case]:
    """All cases, always in the same order."""
    root = folder / "checkpoints"
    newest, older = ({"step": step, "state": facts_of(_state(step))} for step in reversed(_STEPS))
    files = {
        step: sorted(p.relative_to(root).as_posix() for p in (root / str(step)).rglob("*") if p.is_file())
        for step in _STEPS
    }
    load = functools.partial(_trial, newest, older)
    cases, byte_cases = [Case("nothing changed", functools.partial(_sound, root, load))], []
    for step in _STEPS:
        for name in files[step]:
            cases.append(Case(f"no {name}", functools.partial(_change, root, load, {name: None}, step)))
            for words in (*SAME_LENGTH, *OTHER_LENGTH):
                for _ in range(4 if "/d/" in name else 1):
                    byte_cases.append(
                        Case(f"{name}: {words}", functools.partial(_change, root, load, {name: words}, step))
                    )
    cases += choose(byte_cases, _BYTES, seed)
    both = [files[step] for step in _STEPS]
    for one, other in zip(both[0], both[1], strict=False):
        cases.append(
            Case(
                f"{one} and {other} cut short",
                functools.partial(_change, root, load, {one: "cut short", other: "cut short"}, 20),
            )
        )
    for name in files[20]:
        other = name.replace("20/", "10/", 1)
        if (root / other).is_file():
            cases.append(Case(f"{other} as {name}", functools.partial(_exchanged, root, load, other, name)))
    cases += [
        Case(f"a folder {name!r} beside them", functools.partial(_stray, root, load, name, True)) for name in _STRAYS
    ]
    cases += [
        Case(f"a file {name!r} beside them", functools.partial(_stray, root, load, name, False)) for name in _STRAYS
    ]
    cases += [
        Case(f"{words} as the newest", functools.partial(_place, root, load, "20", m)) for words, m in NOT_FILES.items()
    ]
    cases += [
        Case(f"{words} as the folder", functools.partial(_as_folder, load, make)) for words, make in NOT_FILES.items()
    ]
    cases += [Case(f"{words} as config.json", functools.partial(_settings_place, m)) for words, m in NOT_FILES.items()]
    for words, make in NO_JSON.items():
        # JSON may be in any Unicode encoding.
        accept = (None,) if words == "UTF-16" else ()
        cases.append(Case(f"config.json is {words}", functools.partial(_settings, make, accept)))
    return cases


def _state(step: int) -> dict[str, Any]:
    """A small training state like real ones: nested, with numbers of several types, and with an empty array."""
    rng = np.random.default_rng(step)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    return {
        "lora": {"unet": {"to_k": (draw(16, 2), draw(2, 16)), "to_v": (draw(16, 2), draw(2, 16))}},
        "tokens": draw(2, 16),
        "count": jnp.int32(step),
        "moments": [draw(64, 8), draw(64, 8).astype(jnp.bfloat16)],
        "nothing": jnp.zeros((0, 16)),
    }


def _trial(newest: Any, older: Any, folder: Path) -> Trial:
    def restore() -> Any:
        checkpoints = Checkpoints(folder)
        try:
            step, state = checkpoints.restore(_state(0))
            return {"step": step, "state": facts_of(state)}
        finally:
            checkpoints.close()

    return Trial(call=restore, accept=(newest,), apart=lambda facts: facts == older)


def _copy(root: Path, scratch: Path) -> Path:
    shutil.copytree(root, scratch / "checkpoints")
    return scratch / "checkpoints"


def _sound(root: Path, load: Callable[[Path], Trial], rng: np.random.Generator, scratch: Path) -> Trial:
    trial = load(_copy(root, scratch))
    return Trial(call=trial.call, accept=trial.accept, must_load=True)


def _change(
    root: Path,
    load: Callable[[Path], Trial],
    changes: dict[str, str | None],
    step: int,
    rng: np.random.Generator,
    scratch: Path,
) -> Trial:
    """Damaged bytes in files, or files that are missing."""
    folder = _copy(root, scratch)
    for name, words in changes.items():
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        if words:
            (folder / name).write_bytes(damage(words, data, rng) if data else b"x")
    trial = load(folder)
    # Damage to the older checkpoint must not matter: the newest one is restored.
    return trial if step == 20 else Trial(call=trial.call, accept=trial.accept, must_load=True)


def _exchanged(
    root: Path, load: Callable[[Path], Trial], other: str, name: str, rng: np.random.Generator, scratch: Path
) -> Trial:
    """A file of the older checkpoint in the place of that of the newer one."""
    folder = _copy(root, scratch)
    shutil.copy(folder / other, folder / name)
    return load(folder)


def _stray(
    root: Path, load: Callable[[Path], Trial], name: str, is_folder: bool, rng: np.random.Generator, scratch: Path
) -> Trial:
    folder = _copy(root, scratch)
    if is_folder:
        (folder / name).mkdir()
    else:
        (folder / name).write_text("mine")
    trial = load(folder)
    return Trial(call=trial.call, accept=trial.accept, must_load=True)


def _place(
    root: Path,
    load: Callable[[Path], Trial],
    name: str,
    make: Callable[[Path], Path],
    rng: np.random.Generator,
    scratch: Path,
) -> Trial:
    folder = _copy(root, scratch)
    shutil.rmtree(folder / name)
    make(folder / name)
    return load(folder)


def _as_folder(
    load: Callable[[Path], Trial], make: Callable[[Path], Path], rng: np.random.Generator, scratch: Path
) -> Trial:
    trial = load(make(scratch / "checkpoints"))
    return Trial(call=trial.call)


def _settings(make: Callable[[str], bytes], accept: tuple[Any, ...], rng: np.random.Generator, scratch: Path) -> Trial:
    config = _config(scratch)
    (scratch / "config.json").write_bytes(make(json.dumps(config.to_json())))
    return Trial(call=lambda: check_run_dir(config), accept=accept)


def _settings_place(make: Callable[[Path], Path], rng: np.random.Generator, scratch: Path) -> Trial:
    config = _config(scratch)
    make(scratch / "config.json")
    return Trial(call=lambda: check_run_dir(config))


def _config(out: Path) -> ConceptConfig:
    os.makedirs(out, exist_ok=True)
    return ConceptConfig.from_settings(images=Path("ada"), token="<ada>", class_noun="woman", out=out, resume=True)
