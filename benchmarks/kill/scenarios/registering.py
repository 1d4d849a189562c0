"""`python -m merge registry`: one writer, and several at the same time, of which one is killed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np

from benchmarks.kill.launch import Child, Command, run, start
from benchmarks.kill.state import Findings, is_temporary, read_state
from benchmarks.kill.trial import Counts, Scenario

FILE = "registry.json"
EARLIER, WRITERS = ("ann", "ben"), ("cleo", "dan", "eve", "fay")


def registering_scenarios() -> list[Scenario]:
    """A new registry, and a claim in a registry with other claims."""
    return [
        Scenario(
            name="registry, new",
            command=lambda folder: _registry("new", folder, "--blocks", "16"),
            restart=lambda folder: None if (folder / FILE).exists() else _registry("new", folder, "--blocks", "16"),
        ),
        Scenario(
            name="registry, one writer",
            command=lambda folder: _registry("add", folder, WRITERS[0]),
            prepare=prepare,
            restart=lambda folder: None if WRITERS[0] in entries(folder) else _registry("add", folder, WRITERS[0]),
            read=read_registry_state,
        ),
    ]


def prepare(folder: Path) -> None:
    """A registry with earlier claims."""
    for command in (_registry("new", folder), *(_registry("add", folder, name) for name in EARLIER)):
        if run(command, log := folder.with_name("prepared.txt")):
            raise RuntimeError(f"the registry cannot be prepared: {log.read_text()[-500:]}")


def entries(folder: Path) -> dict[str, tuple[int, ...]]:
    """The slots of all claims, by name; empty if the file is missing or incomplete."""
    try:
        return {entry["name"]: tuple(entry["slots"]) for entry in json.loads((folder / FILE).read_text())["entries"]}
    except (OSError, ValueError):
        return {}


def read_registry_state(folder: Path) -> dict[str, str]:
    """The state of the folder without the dates of the claims."""
    state = read_state(folder)
    if claims := entries(folder):
        state[FILE] = hashlib.sha256(repr(claims).encode()).hexdigest()
    return state


class SeveralWriters:
    """Four writers start together, and one of them is killed. This class has the methods of `Trials`."""

    def __init__(self, folder: Path) -> None:
        self.counts = Counts("registry, several writers")
        self._folder, self._place, self._kept = folder, folder / "now", folder / "before"
        self._kept.mkdir(parents=True)
        prepare(self._kept)
        self._reset()
        begun = time.time()
        if [child.wait() for child in self._start()] != [0] * len(WRITERS):
            raise RuntimeError("several writers fail even if none is killed")
        self._duration = time.time() - begun

    def kill_at_random(self, count: int, rng: np.random.Generator) -> None:
        """`count` kills of one of the writers."""
        for _ in range(4 * count):
            if self.counts.kills < count:
                self._try(rng.uniform(0, self._duration), int(rng.integers(len(WRITERS))))

    def kill_at_calls(self, most: int | None = None) -> None:
        """Does nothing, because it is random which writer comes first."""

    def _try(self, seconds: float, killed: int) -> None:
        self._reset()
        children = self._start()
        time.sleep(seconds)
        children[killed].kill()
        codes = dict(zip(WRITERS, [child.wait() for child in children], strict=True))
        if codes[WRITERS[killed]] >= 0:
            return
        self.counts.kills += 1
        moment = f"{WRITERS[killed]} after {seconds:.3f} s"
        there = entries(self._place)
        acknowledged = [*EARLIER, *(name for name, code in codes.items() if code == 0)]
        self.counts.add(moment, Findings(lost=[name for name in acknowledged if name not in there]))
        again = [run(_registry("add", self._place, name), self._log(name)) for name in WRITERS if name not in there]
        if any(again) or any(code > 0 for code in codes.values()):
            printed = " ".join(self._log(name).read_text().strip()[:200] for name in WRITERS if codes[name])
            self.counts.problems.append(f"{moment}: another writer or the restart fails: {printed}")
            return
        self.counts.continued += 1
        self.counts.add(moment, self._judge())

    def _judge(self) -> Findings:
        there = entries(self._place)
        slots = [slot for own in there.values() for slot in own]
        return Findings(
            lost=[name for name in (*EARLIER, *WRITERS) if name not in there],
            wrong=[] if len(slots) == len(set(slots)) else [f"slots {slots}"],
            leftovers=[name for name in read_state(self._place) if is_temporary(name)],
        )

    def _start(self) -> list[Child]:
        children = [start(_registry("add", self._place, name), self._log(name), held=True) for name in WRITERS]
        for child in children:
            child.release()
        return children

    def _reset(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.copytree(self._kept, self._place)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.txt"


def _registry(verb: str, folder: Path, *args: str) -> Command:
    return Command("merge", ("registry", verb, str(folder / FILE), *args))
