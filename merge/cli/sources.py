"""The adapters that a command takes: files, folders of files, a library.yaml, or repositories on the hub."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.find import find_adapter, named_as, shown_name
from blocklora_jax.adapters.on_disk import on_disk
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HUB
from blocklora_jax.io.printing import one_line
from blocklora_jax.library.entry import Entry
from blocklora_jax.library.library import is_library, name_reasons, open_library, usable
from merge.cli.reading import AdapterReader

# Adapters whose files are larger than this together are kept in a temporary file.
_IN_MEMORY = 512 << 20
# An error longer than this is cut, so its parts are printed one by one before it.
_LONGEST_ERROR = 3500
# Such as an `AdapterReader`.
Reader = Callable[[Path], Adapter]


class Source(NamedTuple):
    """An adapter file. entry: what the library says of it; None for a file that was named by itself.

    given: what the user named; None for a file of a folder or library.
    """

    path: Path
    entry: Entry | None = None
    given: Path | None = None

    @property
    def name(self) -> str:
        """How messages name the file: by its address if it is on the hub."""
        return str(self.path) if self.given is None else shown_name(self.given, self.path)

    @property
    def weight(self) -> float:
        """The weight that the library gives; else 1."""
        return self.entry.weight if self.entry else 1.0

    def read(self, reader: Reader) -> Adapter:
        """The adapter, with what the library says of it. Raises: UserError that names the file as the user does."""
        with named_as(self.given or self.path, self.path):
            return described(reader(self.path), self.entry)


def find_sources(paths: Sequence[Path], *, skip_unusable: bool = False, family: str | None = None) -> list[Source]:
    """The files that `paths` stand for. A folder or a library stands for all files in it that are used.

    skip_unusable: leave out files that cannot be used, and name them. family: of the files in folders, take only those
    for this family of base models, and those whose family is not known.

    Raises: UserError if there are no files, and one that names all files that cannot be used.
    """
    sources, reasons = split_sources(paths, family)
    _report(reasons, len(sources) + len(reasons), skip_unusable)
    if not sources:
        raise UserError(f"no file in {', '.join(map(str, paths))} can be used")
    return sources


def split_sources(paths: Sequence[Path], family: str | None = None) -> tuple[list[Source], dict[str, str]]:
    """Like `find_sources`, and, by path, the reason for each file that cannot be used."""
    if not paths:
        raise UserError("name at least one adapter file")
    sources: list[Source] = []
    reasons: dict[str, str] = {}
    for path in paths:
        if not is_library(path):
            try:
                sources.append(Source(find_adapter(path), given=path))
            except UserError as error:
                reasons[str(path).removeprefix(HUB)] = str(error)
            continue
        folder, entries = open_library(path)
        good, wrong = usable([entry for entry in entries if family is None or entry.found.base in ("", family)])
        _check_bases(path, good)
        sources += [Source(folder / entry.file, entry) for entry in good]
        reasons |= {str(folder / file): reason for file, reason in wrong.items()}
    return sources, reasons


def load_each(
    sources: Sequence[Source],
    verify: bool = True,
    *,
    skip_unusable: bool = False,
    reader: Reader | None = None,
) -> Iterator[tuple[Source, Adapter]]:
    """The adapters one by one, with what the library says of them. Memory holds one at a time.

    reader: reads the files. Default: one without a base model.

    Raises: UserError after the last one, naming all files that cannot be used, unless they are skipped.
    """
    reasons: dict[str, str] = {}
    reader = reader or AdapterReader(verify=verify)
    for source in tqdm(
        sources, desc="files", unit="file", dynamic_ncols=True, disable=None if len(sources) > 1 else True
    ):
        try:
            yield source, source.read(reader)
        except UserError as error:
            reasons[source.name] = str(error)
    _report(reasons, len(sources), skip_unusable)


def load_sources(
    sources: Sequence[Source],
    verify: bool = True,
    *,
    skip_unusable: bool = False,
    reader: AdapterReader | None = None,
) -> tuple[list[Source], list[Adapter]]:
    """The files that can be used, and their adapters. Many large ones are kept in a temporary file, not in memory.

    Raises: UserError like `load_each`.
    """
    large = are_large(sources)
    loaded = [
        (source, on_disk(adapter) if large else adapter)
        for source, adapter in load_each(sources, verify, skip_unusable=skip_unusable, reader=reader)
    ]
    if not loaded:
        raise UserError("none of the files can be used")
    return [source for source, _ in loaded], [adapter for _, adapter in loaded]


def are_large(sources: Sequence[Source]) -> bool:
    """Whether the adapters are kept on the disk."""
    return sum(source.path.stat().st_size for source in sources if source.path.is_file()) > _IN_MEMORY


def inputs_of(paths: Sequence[Path], sources: Sequence[Source]) -> list[Path]:
    """What a command must not write into: the files, and the folders of libraries, which the next scan would read."""
    folders = [path if path.is_dir() else path.parent for path in paths if is_library(path)]
    return [*folders, *(source.path for source in sources)]


def weights_of(sources: Sequence[Source], given: Sequence[float]) -> tuple[float, ...] | None:
    """The weights that the user gave, or those of the library; None if all are 1."""
    if given:
        return tuple(given)
    weights = tuple(source.weight for source in sources)
    return None if all(weight == 1 for weight in weights) else weights


def described(adapter: Adapter, entry: Entry | None) -> Adapter:
    """The adapter with the name, trigger, class noun and kind of its entry. An unknown kind changes nothing."""
    if entry is None:
        return adapter
    texts = {"name": entry.name, "trigger": entry.trigger, "class_noun": entry.class_noun}
    texts |= {"kind": entry.kind} if entry.kind else {}
    return replace(adapter, info=replace(adapter.info, **texts))


def _check_bases(place: Path, entries: Sequence[Entry]) -> None:
    bases = [entry.found.base for entry in entries if entry.found.base]
    if len(set(bases)) > 1:
        counts = ", ".join(f"{bases.count(base)} for {base}" for base in sorted(set(bases)))
        raise UserError(
            f"the LoRAs in {place} are for different families of base models ({counts}): choose one with --family"
        )


def name_left_out(reasons: Mapping[str, str]) -> None:
    """A line on stderr for each file that cannot be used. reasons: by path."""
    for file, reason in reasons.items():
        print(f"left out: {one_line(reason if file in reason else f'{file}: {reason}')}", file=sys.stderr)


def _report(reasons: Mapping[str, str], count: int, skip_unusable: bool) -> None:
    """Name the files that cannot be used: in an error, or, if they are skipped, in a line each."""
    if not reasons:
        return
    if count == 1:
        raise UserError(next(iter(reasons.values())))
    named = name_reasons(reasons)
    if skip_unusable or len(named) > _LONGEST_ERROR:
        name_left_out(reasons)
    if skip_unusable:
        return
    named = "they are listed above" if len(named) > _LONGEST_ERROR else named
    raise UserError(f"{len(reasons)} of {count} files cannot be used: {named}. --skip-unusable goes on without them")
