"""The registry as data: a partition of a base model, and the concepts that own its slots."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import combinations
from typing import Any, Literal, get_args

from blocklora_jax.adapters.partition import Axis, Partition, slot_from_name
from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.checks.names import plain_name
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from blocklora_jax.prompts.concept_token import is_concept_token

VERSION = 1
MOST_PER_SLOT = int(BOUNDS["per_slot"].most)
Draw = Literal["free", "name"]
_DIGEST = re.compile(r"([0-9a-f]{64})?")
_BASIS = re.compile(r"([0-9a-f]{16})?")
_LONGEST = 1000  # characters
# Newer fields, and the values that files without them have.
_OLD = {"codewords": "", "per_slot": 1}
_FIELDS = {"blocklora_registry", "base_name", "base_digest", "partition", "entries"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The claim of one concept.

    name: the concept's name, such as "ada".
    token: its word in prompts, such as "<ada>".
    slots: the slots that it owns.
    owner: the person to ask about it, as any text.
    date: when it was claimed, such as "2026-11-21".
    """

    name: str
    token: str
    slots: tuple[int, ...]
    owner: str = ""
    date: str = ""

    def __str__(self) -> str:
        return repr(self.name) + (f" (of {self.owner})" if self.owner else "")


@dataclass(frozen=True, kw_only=True)
class Registry:
    """All claims to the slots of one partition. As JSON:

        {
          "blocklora_registry": 1,
          "base_name": "pocket",
          "base_digest": "<64 hexadecimal digits, see checkpoints/digest.py; empty: any model>",
          "partition": {"num_blocks": 16, "axis": "in", "seed": 0},
          "entries": [{"name": "ada", "token": "<ada>", "slots": [0], "owner": "ada@example.org", "date": "2026-11-21"}]
        }

    owner and date may be missing. All other fields are required, and no others are allowed. A partition in a basis also
    has "basis": "<its digest>", and may have "assignment": "text" (see `Partition`). Then the registry may have
    "codewords": "<their digest>", the codewords at which the concepts' tokens start (see `basis.codewords_digest`).
    "per_slot": 3 lets up to three concepts own the same slot. Such concepts cannot be merged with each other.
    """

    partition: Partition
    base_name: str = ""
    base_digest: str = ""
    entries: tuple[Entry, ...] = ()
    codewords: str = ""
    per_slot: int = 1

    def training_flags(self) -> str:
        """The flags for training concepts of this registry, without their slots."""
        cut = self.partition
        flags = f"--blocks {cut.num_blocks} --axis {cut.axis} --partition-seed {cut.seed}"
        if cut.basis:
            return f"{flags} --basis FILE --assignment {cut.assignment}, where FILE is basis {cut.basis}"
        return f"--config feature_blocks {flags}"

    def free_slots(self) -> list[int]:
        """The slots that no entry owns."""
        taken = {slot for entry in self.entries for slot in entry.slots}
        return [slot for slot in range(self.partition.num_blocks) if slot not in taken]

    def collisions(self) -> list[str]:
        """Messages about slots, tokens and names that two entries both claim; empty if there are none.

        A slot may have `per_slot` owners.
        """
        problems, crowded = [], {slot for slot, count in self._owners().items() if count > self.per_slot}
        for one, other in self._meeting():
            shared = sorted(set(one.slots) & set(other.slots) & crowded)
            problems += [f"{one} and {other} both own slot {_numbers(shared)}"] if shared else []
            problems += [f"{one} and {other} both use the token {one.token}"] if one.token == other.token else []
            problems += [f"two entries are named {one.name!r}"] if one.name == other.name else []
        return problems

    def conflicts(self, names: Sequence[str]) -> list[str]:
        """Messages about those of the named concepts that own the same slot, and so cannot be merged.

        Raises: UserError for a name without a claim.
        """
        chosen = replace(self, entries=tuple(self._named(names)), per_slot=1)
        return [f"{problem}: they cannot be merged with each other" for problem in chosen.collisions()]

    def _named(self, names: Sequence[str]) -> list[Entry]:
        """The entries of these names, each once. Raises UserError for a name without a claim."""
        entries = {entry.name: entry for entry in self.entries}
        if missing := [name for name in names if name not in entries]:
            known = ", ".join(list(entries)[:8]) or "none"
            more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
            raise UserError(f"the registry has no entry {missing[0]!r}; it has {known}{more}")
        return [entries[name] for name in dict.fromkeys(names)]

    def _owners(self) -> Counter[int]:
        return Counter(slot for entry in self.entries for slot in set(entry.slots))

    def _meeting(self) -> Iterator[tuple[Entry, Entry]]:
        """The pairs of entries that have a slot, the token or the name in common, in their order."""
        holders: dict[tuple[str, object], list[int]] = defaultdict(list)
        for i, entry in enumerate(self.entries):
            claimed = [("slot", slot) for slot in set(entry.slots)]
            for each in (*claimed, ("token", entry.token), ("name", entry.name)):
                holders[each].append(i)
        pairs = {pair for places in holders.values() for pair in combinations(places, 2)}
        return ((self.entries[i], self.entries[j]) for i, j in sorted(pairs))

    def find(self, token: str) -> Entry:
        """The claim with `token`. Raises UserError if there is none, or if it collides with another."""
        claim = next((entry for entry in self.entries if entry.token == token), None)
        if claim is None:
            raise UserError(
                f"the registry has no token {token}: claim a slot first, with `python -m merge registry add`"
            )
        owners = self._owners()
        crowded = {slot for slot in claim.slots if owners[slot] > self.per_slot}
        others = (other for other in self.entries if other is not claim)
        wrong = [other for other in others if set(other.slots) & crowded or other.token == token]
        if wrong:
            raise UserError(
                f"{claim} and {wrong[0]} collide in the registry (`python -m merge registry check` shows how): "
                "agree on which of them changes, and edit the file"
            )
        return claim

    def claim(self, entry: Entry, apart: Sequence[str] = ()) -> Registry:
        """The registry with `entry` added. apart: names of concepts whose slots it must not have.

        Raises: UserError for a name, token or slot that is taken or not valid, and a name in `apart` without a claim.
        """
        if not is_concept_token(entry.token):
            raise UserError(f"token {entry.token!r} must look like '<name>': lower-case letters, digits, '-' and '_'")
        _check_texts({name: getattr(entry, name) for name in ("name", "token", "owner", "date")})
        plain_name(entry.name, "the concept")
        slots = self.partition.check_slots(entry.slots)
        for other in self.entries:
            if other.name == entry.name:
                raise UserError(f"the name {entry.name!r} is taken by {other}: choose another")
            if other.token == entry.token:
                raise UserError(f"the token {entry.token} is taken by {other}: choose another with --token")
        holders = {slot: other for other in self.entries for slot in other.slots}
        owners = self._owners()
        if taken := [f"slot {slot} is taken by {holders[slot]}" for slot in slots if owners[slot] >= self.per_slot]:
            raise UserError(f"{'; '.join(taken)}: {self._advice()}")
        for other in self._named(apart):
            if shared := set(slots) & set(other.slots):
                raise UserError(
                    f"{other} owns slot {_numbers(sorted(shared))} too, so {entry.name!r} could not be merged with it:"
                    " choose another --slot, or leave out --slot and --draw to get one"
                )
        return replace(self, entries=(*self.entries, replace(entry, slots=slots)))

    def draw_slots(self, name: str, draw: Draw, count: int = 1, apart: Sequence[str] = ()) -> tuple[int, ...]:
        """Slots for a concept: the lowest free ones, or the one that its name's hash gives (`slot_from_name`).

        Where concepts share slots, those with the fewest owners. apart: names of concepts whose slots it must not have.

        Raises: UserError if `count` is below 1, if there are fewer free slots, and for a name without a claim.
        """
        if count < 1:
            raise UserError(f"a concept owns one slot or more, not {count}")
        if draw == "name":
            return (slot_from_name(name, self.partition.num_blocks),)
        owners = self._owners()
        kept_off = {slot for entry in self._named(apart) for slot in entry.slots}
        free = [
            slot for slot in range(self.partition.num_blocks) if owners[slot] < self.per_slot and slot not in kept_off
        ]
        if len(free) < count:
            raise UserError(f"there are fewer than {count} free slots: {self._advice()}")
        return tuple(sorted(sorted(free, key=lambda slot: owners[slot])[:count]))

    def drop(self, name: str) -> Registry:
        """The registry without the entry `name`. Raises UserError if there is none."""
        self._named([name])
        return replace(self, entries=tuple(entry for entry in self.entries if entry.name != name))

    def _advice(self) -> str:
        if free := self.free_slots():
            return f"free slots are {_numbers(free)}"
        blocks = self.partition.num_blocks
        return (
            f"all {blocks} slots are taken; drop a concept that nobody uses (`registry drop`), or start a new "
            "registry with more --blocks, for which all concepts must be trained again "
            f"(`python -m merge plan --concepts {2 * blocks}`)"
        )

    def to_json(self) -> dict[str, Any]:
        """The registry as plain JSON, in the form shown above."""
        value = {"blocklora_registry": VERSION, **asdict(self), "partition": self.partition.to_json()}
        # Newer fields with the values of older files are left out.
        return {name: item for name, item in value.items() if (name, item) not in _OLD.items()}

    @classmethod
    def from_json(cls, value: Any, source: str) -> Registry:
        """The registry in JSON that `to_json` or a person wrote. Raises UserError naming `source` and what is wrong."""
        if not isinstance(value, Mapping) or "blocklora_registry" not in value:
            raise UserError(f"{source} is not a slot registry (it has no 'blocklora_registry')")
        if value["blocklora_registry"] != VERSION:
            raise UserError(
                f"{source} is a registry of version {value['blocklora_registry']}; this program reads {VERSION}: "
                "update blocklora_jax"
            )
        if wrong := sorted(_FIELDS ^ (value.keys() - _OLD.keys())):
            raise UserError(f"{source} must have the fields {', '.join(sorted(_FIELDS))}; check {', '.join(wrong)}")
        try:
            if not isinstance(value["entries"], list):
                raise UserError("entries must be a list")
            partition = _partition(value["partition"])
            entries = tuple(_entry(item, partition) for item in value["entries"])
        except (UserError, TypeError, KeyError) as error:
            raise UserError(f"{source} cannot be read as a registry: {error}") from error
        texts = {name: value[name] for name in ("base_name", "base_digest")}
        codewords = value.get("codewords", "")
        if not isinstance(codewords, str) or not _BASIS.fullmatch(codewords):
            raise UserError(f"{source}: codewords {codewords!r:.100} must be 16 hexadecimal digits, or empty")
        per_slot = value.get("per_slot", 1)
        if type(per_slot) is not int or not 1 <= per_slot <= MOST_PER_SLOT:
            raise UserError(f"{source}: per_slot {per_slot!r:.100} must be a whole number from 1 to {MOST_PER_SLOT}")
        if not all(isinstance(text, str) for text in texts.values()):
            raise UserError(f"{source}: base_name and base_digest must be strings")
        try:
            _check_texts(texts)
            if not _DIGEST.fullmatch(value["base_digest"]):
                raise UserError(f"base_digest {value['base_digest'][:40]!r} must be 64 hexadecimal digits, or empty")
        except UserError as error:
            raise UserError(f"{source} cannot be read as a registry: {error}") from error
        return cls(partition=partition, entries=entries, codewords=codewords, per_slot=per_slot, **texts)


def _check_texts(texts: Mapping[str, str]) -> None:
    """Raise UserError for a text that is longer than a line, or that has control characters."""
    for name, text in texts.items():
        if len(text) > _LONGEST or text != printable(text):
            raise UserError(
                f"{name} {text[:40]!r} must be one line of at most {_LONGEST} characters that can be printed"
            )


def _partition(value: Any) -> Partition:
    known = [field.name for field in fields(Partition)]
    if not isinstance(value, Mapping) or not {"num_blocks", "axis", "seed"} <= value.keys() <= set(known):
        raise UserError(f"the partition {value!r} must have num_blocks, axis and seed (and may have basis, assignment)")
    if not all(type(value[name]) is int and abs(value[name]) < 1 << 64 for name in ("num_blocks", "seed")):
        raise UserError(f"num_blocks and seed of the partition {value!r:.300} must be whole numbers of at most 64 bits")
    if value["axis"] not in get_args(Axis):
        raise UserError(f"unknown block axis {value['axis']!r}; choose one of {', '.join(get_args(Axis))}")
    if not isinstance(value.get("basis", ""), str) or not _BASIS.fullmatch(value.get("basis", "")):
        raise UserError(f"basis of the partition {value!r:.300} must be 16 hexadecimal digits, or empty")
    return Partition(**value)


def _entry(value: Any, partition: Partition) -> Entry:
    known = [field.name for field in fields(Entry)]
    if not isinstance(value, Mapping) or not {"name", "token", "slots"} <= value.keys() <= set(known):
        raise UserError(f"the entry {value!r} must have {', '.join(known)} (the last two may be missing)")
    texts = {name: text for name, text in value.items() if name != "slots"}
    slots = value["slots"]
    if not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"the entry {value!r:.300} must have texts in all fields except slots")
    _check_texts(texts)
    if not is_concept_token(value["token"]):
        raise UserError(f"the token {value['token'][:40]!r} must look like '<name>'")
    if not isinstance(slots, list) or not all(type(slot) is int for slot in slots):
        raise UserError(f"slots of {value['name']!r} must be a list of whole numbers, not {slots!r}")
    return Entry(**texts, slots=partition.check_slots(tuple(slots)))


def _numbers(slots: Sequence[int]) -> str:
    return ", ".join(str(slot) for slot in slots)
