"""Trains a share of many concepts, group by group, beside other machines that train the other shares."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import remove_temporaries
from blocklora_jax.storage.copies import clear, download
from blocklora_jax.storage.folder import LocalFolder, SharedFolder
from blocklora_jax.storage.lease import RENEWALS, Lease, last_note, take_lease
from blocklora_jax.storage.objects import ObjectFolder
from train.concept.batch_training import train_together
from train.concept.config import ConceptConfig
from train.concept.groups import SHARED, check_concepts, check_folders, group_name, load_for
from train.concept.run_folder import hold_run_folders
from train.concept.staging import mirrored, stage_inputs
from train.shares.finished import damaged_adapters, forget_finished, is_recorded, missing_objects, record_finished
from train.shares.share import Share

Outcome = Literal["trained", "finished", "held", "failed"]
_ADAPTER, _PLAN = "adapter.safetensors", "plan.json"
GROUPS = "groups"
_FAILED = "failed: "
_LONGEST_WAIT = 30.0  # seconds between two looks at what others do


@dataclass(frozen=True, kw_only=True)
class ShareSettings:
    """How a share is trained.

    groups: the folder of the groups. at_once: concepts in a group. lease: seconds without a sign of life after which a
    machine counts as dead. wait: stay until the groups of the others are finished, to take over from those that die.
    remote: the run folder in an object store, if it is in one; the folder above `groups` is then the local copy.
    """

    share: Share
    groups: Path
    at_once: int
    lease: float = 300.0
    wait: bool = False
    remote: str | None = None

    def folder(self, name: str) -> SharedFolder:
        """The folder of this name in the run folder that all machines share."""
        return ObjectFolder(f"{self.remote}/{name}") if self.remote else LocalFolder(self.groups.parent / name)


@dataclass
class Report:
    """What became of each group: its number, by outcome."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def those(self, outcome: Outcome) -> list[int]:
        """The numbers of the groups with this outcome."""
        return [group for group, each in self.outcomes.items() if each == outcome]

    def line(self, share: Share) -> str:
        """One line for people and logs."""
        counts = {outcome: len(self.those(outcome)) for outcome in ("trained", "finished", "held", "failed")}
        return (
            f"share {share}: {counts['trained']} groups trained, {counts['finished']} were finished, "
            f"{counts['held']} are held by others, {counts['failed']} failed"
        )


def train_share(configs: Sequence[ConceptConfig], settings: ShareSettings, platform: str) -> Report:
    """Train the groups of a share, and then those of the others that nobody trains.

    A group is trained by one machine at a time, which holds its lease. Groups that are finished are left, if their
    adapters are whole. A group that another machine began is continued from its last checkpoint.

    Raises: UserError for settings that are wrong for all groups; at the end also for groups that failed.
    """
    configs = [stage_inputs(config, ("model", "basis")) for config in configs]
    configs, registry = check_concepts(configs, settings.groups, settings.at_once)
    starts = range(0, len(configs), settings.at_once)
    groups = [list(configs[start : start + settings.at_once]) for start in starts]
    _agree(settings.folder(f"{GROUPS}/{SHARED}"), [config.out.name for config in configs], settings.at_once)
    loaded: list[Any] = []

    def train(group: list[ConceptConfig], run_dir: Path) -> list[Path]:
        if not loaded:
            loaded.extend(load_for(configs[0], registry, platform))
        sd, basis = loaded
        return train_together([stage_inputs(config) for config in group], sd, basis, run_dir)

    work = _Work(settings, groups, train)
    report = work.until_nothing_is_left()
    if report.problems:
        raise UserError(f"{report.line(settings.share)}; {'; '.join(report.problems)}")
    return report


class _Work:
    """The groups, as this machine finds them."""

    def __init__(
        self,
        settings: ShareSettings,
        groups: list[list[ConceptConfig]],
        train: Callable[[list[ConceptConfig], Path], list[Path]],
    ) -> None:
        self._settings, self._groups, self._train, self._report = settings, groups, train, Report()
        self._records, self._leases = settings.folder(GROUPS), settings.folder(f"{GROUPS}/{SHARED}")

    def until_nothing_is_left(self) -> Report:
        """Go through the groups once, or until none is held by others."""
        outcomes, order = self._report.outcomes, self._settings.share.order(len(self._groups))
        for number in order:
            outcomes[number] = self._do(number)
        while self._settings.wait and (held := self._report.those("held")):
            time.sleep(min(self._settings.lease / RENEWALS, _LONGEST_WAIT))
            for number in held:
                outcomes[number] = self._do(number)
        return self._report

    def _do(self, number: int) -> Outcome:
        name, is_own = group_name(number), number % self._settings.share.count == self._settings.share.index
        if self._is_finished(number):
            return "finished"
        # Machines that help must not repeat the failure. Whoever has the share tries again.
        if not is_own and last_note(self._leases, name).startswith(_FAILED):
            return "failed"
        lease = take_lease(self._leases, name, self._settings.lease)
        if lease is None:
            return "held"
        with _held(lease, name):
            if self._is_finished(number):
                return "finished"
            if lease.taken_over:
                print(f"group {name}: going on with what another process began", file=sys.stderr, flush=True)
            try:
                self._train_group(number)
            except UserError as error:
                lease.release(f"{_FAILED}{error}")
                self._report.problems.append(f"group {name}: {error}")
                return "failed"
        return "trained"

    def _train_group(self, number: int) -> None:
        name, group = group_name(number), self._groups[number]
        run_dir = self._settings.groups / name
        # Before the files are fetched, among which it would be.
        forget_finished(self._records, name)
        with self._synchronised(name, group):
            self._train_here(name, group, run_dir)
        if not record_finished(self._records, name, [config.out / _ADAPTER for config in group]):
            raise UserError("another process finished it at the same time: their results are the same")
        print("\n".join(f"{self._shown(config)} ({config.trigger})" for config in group), flush=True)

    def _train_here(self, name: str, group: list[ConceptConfig], run_dir: Path) -> None:
        begun = any((config.out / "config.json").exists() for config in group)
        group = [config.with_settings(resume=begun) for config in group]
        with hold_run_folders([*(config.out for config in group), run_dir], lambda: check_folders(group, run_dir)):
            self._train(group, run_dir)

    @contextmanager
    def _synchronised(self, name: str, group: list[ConceptConfig]) -> Iterator[None]:
        """Fetch what others left of a group in an object store, and upload it. Nothing for a shared folder."""
        if self._settings.remote is None:
            yield
            return
        root, parts = self._settings.groups.parent, [*(config.out.name for config in group), f"{GROUPS}/{name}"]
        for part in parts:
            clear(root / part)
            download(ObjectFolder(f"{self._settings.remote}/{part}"), root / part)
        with mirrored(root, ObjectFolder(self._settings.remote), parts):
            yield

    def _shown(self, config: ConceptConfig) -> str:
        return f"{self._settings.remote or self._settings.groups.parent}/{config.out.name}/{_ADAPTER}"

    def _is_finished(self, number: int) -> bool:
        name, paths = group_name(number), [config.out / _ADAPTER for config in self._groups[number]]
        if not is_recorded(self._records, name):
            return False
        if self._settings.remote is None:
            damaged = damaged_adapters(self._records, name, paths)
        else:
            damaged = missing_objects(ObjectFolder(self._settings.remote), self._records, name, paths)
        if damaged:
            print(f"group {name} is finished, but {damaged[0]} is missing or damaged", file=sys.stderr, flush=True)
        return not damaged


@contextmanager
def _held(lease: Lease, name: str):
    """Renew the lease within the block, and release it at the end. If it is lost, the process ends."""

    def end() -> None:
        remove_temporaries()
        os.write(2, f"\nerror: another machine took over group {name}, because this one was silent too long\n".encode())
        os._exit(2)

    lease.renew_until_released(end)
    note = "interrupted"
    try:
        yield
        note = "done"
    finally:
        if not lease.is_released:
            lease.release(note)


def _agree(folder: SharedFolder, names: Sequence[str], at_once: int) -> None:
    """Raises UserError unless all machines deal out the same concepts in groups of one size."""
    plan = json.dumps({"at_once": at_once, "concepts": list(names)}, indent=1).encode()
    if not folder.create(_PLAN, plan) and folder.read(_PLAN) != plan:
        raise UserError(
            f"{folder} was begun with other concepts or another --at-once (see {_PLAN} there): all shares must be "
            "given the same --concepts and --at-once"
        )
