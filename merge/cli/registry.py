"""`python -m merge registry …`: reserves slots, and lists which concept has which."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.command_line.command import unknown_command
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.program import as_called
from blocklora_jax.errors import UserError
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.registry.claims import Draw, Entry, Registry
from blocklora_jax.registry.store import create_registry, read_registry, update_registry
from blocklora_jax.storage.copies import original
from merge.cli.plan import PlanOptions, print_plan
from merge.cli.shared_options import ConceptName, CutAxis, Options, PartitionSeed, RegistryPlace, Variant

_PROGRAM = "python -m merge registry"
HELP = """A slot registry is a small JSON file, in a folder or at a URL, that says which concept owns which slots.

  new    start a registry                  add    claim a slot, before training
  list   show all slots and their owners   check  find collisions, and check adapter files against the registry
  drop   give up a concept's slots         plan   compute how many blocks a number of concepts needs

python -m merge registry <command> --help says more.
`python -m train.concept --registry WHERE` trains on the claimed slot.
"""


@dataclass(frozen=True, kw_only=True)
class NewOptions(Options):
    """Start a registry. All its adapters share the base model and the partition, so do not change these later."""

    where: Positional[str]
    """The file to write ("registry.json"), or a folder for it."""
    model: str | None = None
    """Record this base model ("pocket", a Diffusers folder, a hub id), so that adapters for another are refused."""
    variant: Variant = None
    blocks: int = 16
    """Number of slots (see `python -m merge plan`)."""
    axis: CutAxis = "in"
    partition_seed: PartitionSeed = 0
    basis: str | None = None
    """Give every slot one block of this basis of --model, for all layers that read text, as `train.concept` does by
    default: a file of `train.basis`, "pocket", or "hub:OWNER/NAME". Without it the slots are blocks of the features
    themselves, and concepts are trained with --config feature_blocks."""
    per_slot: int = 1
    """How many concepts may own the same slot, for more concepts than slots. Concepts of one slot cannot be merged with
    each other (`add --apart-from` and `check --together` help to choose)."""

    def __post_init__(self) -> None:
        check_options(self, {"blocks": BOUNDS["slots"]})
        if self.basis is not None and self.model is None:
            raise UserError("--basis belongs to a base model: name that with --model")


@dataclass(frozen=True, kw_only=True)
class AddOptions(Options):
    """Claim slots for a concept, before it is trained."""

    where: Positional[str]
    """The registry: a file or a folder. (A registry at a URL can only be read.)"""
    name: ConceptName
    token: str | None = None
    """The concept's word in prompts. Default: "<name>"."""
    slot: tuple[int, ...] | None = None
    """Claim these slots."""
    draw: Draw = "free"
    """How slots are chosen without --slot: the lowest free ones, or the one that the name's hash gives."""
    count: int = 1
    """Number of free slots for the concept. A concept that is hard to learn may need more."""
    apart_from: tuple[str, ...] = ()
    """Names of concepts with which this one will be merged, where concepts share slots: it gets none of their slots."""
    owner: str = ""
    """The person to ask about it: a name, an address."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slot is not None and self.draw != "free":
            raise UserError("--slot and --draw both choose the slots: leave out one of them")
        if self.count != 1 and (self.slot is not None or self.draw != "free"):
            raise UserError("--count is for free slots: write several after --slot, or leave out --slot and --draw")


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """List which concept owns which slots, and which are free."""

    where: RegistryPlace


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """List collisions within the registry, and differences between adapter files and their claims.

    The exit code is 1 if there are any.
    """

    where: RegistryPlace
    files: Positional[tuple[Path, ...]] = ()
    """Adapter files."""
    together: tuple[str, ...] = ()
    """Names of concepts to be merged: name those that own the same slot."""


@dataclass(frozen=True, kw_only=True)
class DropOptions(Options):
    """Give up a concept's slots. Adapters that were trained on them keep them."""

    where: Positional[str]
    """The registry: a file or a folder."""
    name: ConceptName


def main(args: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; gives the exit code."""
    args = list(sys.argv[1:] if args is None else args)
    commands: dict[str, tuple[Any, Callable[[Any], int]]] = {
        "new": (NewOptions, start), "add": (AddOptions, add), "list": (ListOptions, show),
        "check": (CheckOptions, check), "drop": (DropOptions, drop), "plan": (PlanOptions, print_plan),
    }  # fmt: skip
    if not args or args[0] in ("-h", "--help"):
        print(as_called(HELP))
        return 0
    if args[0] not in commands:
        raise UserError(unknown_command(args[0], commands, "registry"))
    options, command = commands[args[0]]
    return command(read_options(options, args[1:], prog=f"{_PROGRAM} {args[0]}"))


def start(options: NewOptions) -> int:
    """Write an empty registry."""
    partition = Partition(num_blocks=options.blocks, axis=options.axis, seed=options.partition_seed)
    digest = codewords = ""
    if options.model is not None:
        # Imported here, because reading a model needs Flax.
        from blocklora_jax.checkpoints.diffusers import load_folder
        from blocklora_jax.checkpoints.digest import params_digest

        digest = params_digest(load_folder(options.model, variant=options.variant, dtype="float16").params)
    if options.basis is not None:
        partition, codewords = _in_basis(partition, options.basis, digest)
    registry = Registry(
        partition=partition, base_name=original(options.model or ""), base_digest=digest, codewords=codewords,
        per_slot=options.per_slot,
    )  # fmt: skip
    print(f"wrote {create_registry(options.where, registry)}: {options.blocks} free slots")
    return 0


def _in_basis(partition: Partition, path: str, base_digest: str) -> tuple[Partition, str]:
    """The partition in a basis, and the digest of the codewords for its number of slots.

    Raises: UserError for a number of slots with which no concept can be trained in this basis.
    """
    from blocklora_jax.adapters.basis import basis_digest, codewords_digest, load_text_basis
    from blocklora_jax.pocket.basis_file import local_basis

    basis = load_text_basis(local_basis(path), base_digest)
    cut = replace(partition, basis=basis_digest(basis.directions), assignment="text")
    cut.directions("", len(basis.directions), (0,))  # raises UserError if there are too few
    return cut, codewords_digest(basis.codewords_for(partition.num_blocks))


def add(options: AddOptions) -> int:
    """Claim slots in the registry, and print how to train on them."""
    token = options.token or concept_token(options.name)

    def claim(registry: Registry) -> Registry:
        slots, apart, today = options.slot, options.apart_from, date.today().isoformat()
        if slots is None:
            slots = registry.draw_slots(options.name, options.draw, options.count, apart)
        entry = Entry(name=options.name, token=token, slots=slots, owner=options.owner, date=today)
        return registry.claim(entry, apart)

    registry = update_registry(options.where, claim)
    slots = " ".join(str(slot) for slot in registry.find(token).slots)
    model = f" --model {registry.base_name}" if registry.base_name else ""
    if registry.partition.basis:
        print(f"{options.name!r} owns slot {slots}; train it with --token '{token}' --registry {options.where}{model}")
        print(f"and {registry.training_flags()}")
        return 0
    print(f"{options.name!r} owns slot {slots}; train it with --token '{token}' --registry {options.where}")
    print(f"(the same as {registry.training_flags()} --slot {slots}{model})")
    return 0


def show(options: ListOptions) -> int:
    """Print all entries."""
    registry = read_registry(options.where)
    partition, base = registry.partition, registry.base_name or "any model"
    if partition.basis:
        print(f"{partition.num_blocks} slots of {base}, {partition}")
    else:
        print(f"{partition.num_blocks} slots of {base}, axis {partition.axis!r}, seed {partition.seed}")
    rows = [("slots", "name", "token", "date", "owner")]
    for entry in sorted(registry.entries, key=lambda entry: entry.slots):
        rows.append((", ".join(map(str, entry.slots)), entry.name, entry.token, entry.date, entry.owner))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    free = registry.free_slots()
    print(f"free: {', '.join(map(str, free)) or 'none'}")
    if registry.per_slot > 1:
        print(f"up to {registry.per_slot} concepts own a slot together; they cannot be merged with each other")
    for collision in registry.collisions():
        print(f"collision: {collision}")
    return 0


def check(options: CheckOptions) -> int:
    """Print all problems. Gives the exit code: 1 if there are any."""
    registry = read_registry(options.where)
    problems = [*registry.collisions(), *registry.conflicts(options.together)]
    for path in options.files:
        try:
            problems += [f"{path}: {problem}" for problem in claim_problems(registry, Adapter.load(path))]
        except UserError as error:
            problems.append(str(error))
    for problem in problems:
        print(as_called(problem))
    print(f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no collisions")
    return 1 if problems else 0


def claim_problems(registry: Registry, adapter: Adapter) -> list[str]:
    """How an adapter differs from its claim."""
    info, problems = adapter.info, []
    if registry.base_digest and info.base_digest and registry.base_digest != info.base_digest:
        problems.append(f"trained on {info.base_name or 'another model'}, not on {registry.base_name}")
    if info.partition != registry.partition:
        return [
            *problems,
            f"the partition is {info.partition or 'no blocks'}, not {registry.partition}",
        ]
    claims = [entry for entry in registry.entries if entry.token in adapter.tokens or entry.name == adapter.name]
    if not claims:
        problems.append(f"{adapter.name!r} is not registered, and owns slot {_text(info.slots)}")
    elif not set(info.slots) <= {slot for entry in claims for slot in entry.slots}:
        problems.append(f"owns slot {_text(info.slots)}, but {claims[0]} registered slot {_text(claims[0].slots)}")
    if registry.per_slot > 1:
        return problems  # Others may own the slot too.
    others = [entry for entry in registry.entries if entry not in claims and set(entry.slots) & set(info.slots)]
    return problems + [f"slot {_text(sorted(set(e.slots) & set(info.slots)))} is registered by {e}" for e in others]


def drop(options: DropOptions) -> int:
    """Remove an entry."""
    registry = update_registry(options.where, lambda registry: registry.drop(options.name))
    print(f"dropped {options.name!r}; free: {_text(registry.free_slots())}")
    return 0


def _text(slots: Sequence[int]) -> str:
    return ", ".join(str(slot) for slot in slots)
