"""The state of a folder as a digest of every file, and the changes that a kill may cause."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# {path below the folder: digest}. A temporary folder without files is included with an empty digest.
State = Mapping[str, str]


def read_state(folder: Path) -> dict[str, str]:
    """The state of `folder`."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    return digests | {name: "" for name, path in files.items() if path.is_dir() and is_temporary(name)}


def is_temporary(name: str) -> bool:
    """Whether a path has the name of an unfinished file: `.name.xyz`, or a checkpoint that orbax still writes."""
    return any(part.startswith(".") or "orbax-checkpoint-tmp" in part for part in Path(name).parts) and not is_lock(
        name
    )


def is_lock(name: str) -> bool:
    """Whether a path is a lock file. Locks of the operating system leave an empty file, which blocks nothing."""
    return name.endswith(".lock")


@dataclass
class Findings:
    """What is wrong, as lists of paths."""

    lost: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.half_written or self.wrong or self.leftovers)


def judge_killed(before: State, after: State, now: State, units: Sequence[str] = ()) -> Findings:
    """What a kill did to complete files.

    before, after: the states before and after an undisturbed run. units: folders that are replaced as a whole.
    """
    findings = Findings(lost=[name for name in before if name in after and name not in now and _apart(name, units)])
    for name, digest in now.items():
        if _apart(name, units) and _is_final(name) and digest not in (before.get(name), after.get(name)):
            findings.half_written.append(name)
    for unit in units:
        old, new, is_now = (_inside(state, unit) for state in (before, after, now))
        if not is_now and old:
            findings.lost.append(f"{unit}/")
        elif is_now not in (old, new):
            findings.half_written.append(f"{unit}/")
    return findings


def judge_finished(after: State, now: State) -> Findings:
    """The differences between the state after the restart and the state after an undisturbed run."""
    return Findings(
        lost=[name for name in after if name not in now and _is_final(name)],
        wrong=[name for name, digest in now.items() if _is_final(name) and digest != after.get(name)],
        leftovers=sorted({_temporary_part(name) for name in now if is_temporary(name)}),
    )


def _temporary_part(name: str) -> str:
    """The outermost temporary file or folder in a path, so that a folder is counted once."""
    parts = Path(name).parts
    return next(start for i in range(len(parts)) if is_temporary(start := "/".join(parts[: i + 1])))


def _is_final(name: str) -> bool:
    return not is_temporary(name) and not is_lock(name)


def _apart(name: str, units: Sequence[str]) -> bool:
    return not any(name.startswith(f"{unit}/") for unit in units)


def _inside(state: State, unit: str) -> dict[str, str]:
    return {name: digest for name, digest in state.items() if name.startswith(f"{unit}/") and _is_final(name)}
