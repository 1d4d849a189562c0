"""`python -m merge registry …`: give out slots, and say who owns which."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Axis, Partition
from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.errors import UserError
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.registry.book import Draw, Entry, Registry
from blocklora_jax.registry.store import create_registry, read_registry, update_registry
from merge.cli.plan import PlanOptions, print_plan
from merge.cli.verbs import unknown_verb

HELP = """A slot registry: a small JSON file, in a folder or at a URL, that says who owns which slots.

  new    start one                         add    claim a slot, before training
  list   who owns what, and what is free   check  the registry itself, and adapter files against it
  drop   give a slot up                    plan   how many blocks a number of concepts needs

python -m merge registry <command> --help says more; `python -m train.concept --registry WHERE` trains on the claimed slot.
"""


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Start a registry. All adapters in it share the base model and the partition: change neither later."""

    where: Positional[str]
    """The file to write ("registry.json"), or the folder that gets one."""
    model: str | None = None
    """Record this base model ("pocket", a Diffusers folder, a hub id), so that adapters of another are refused."""
    variant: str | None = None
    """Read the weights of this variant of the model ("fp16")."""
    blocks: int = 16
    """How many slots there are (see `python -m merge plan`)."""
    axis: Axis = "in"
    """What is cut: input features, output features, or both."""
    partition_seed: int = 0
    """Seeds the assignment of slots to blocks."""

    def __post_init__(self) -> None:
        check_options(self, {"blocks": BOUNDS["slots"]})


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """Claim slots for a concept, before it is trained."""

    where: Positional[str]
    """The registry: a file or a folder. (What is at a URL can only be read.)"""
    name: Positional[str]
    """The concept's name."""
    token: str | None = None
    """Its word in prompts; "<name>" if not given."""
    slot: tuple[int, ...] | None = None
    """Ask for these slots."""
    draw: Draw = "free"
    """How slots are drawn that are not asked for: the lowest free ones, or the one that the name's hash gives."""
    count: int = 1
    """How many slots the concept gets: more for what is hard to learn."""
    owner: str = ""
    """Whom to ask: a name, an address."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Say who owns which slots, and which are free."""

    where: Positional[str]
    """The registry: a file, a folder or a URL."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Say what collides within the registry, and where adapter files differ from their claims; exit code 1 if anything does."""

    where: Positional[str]
    """The registry: a file, a folder or a URL."""
    files: Positional[tuple[Path, ...]] = ()
    """Adapter files."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class DropOptions:
    """Give a concept's slots up; adapters trained on them keep them."""

    where: Positional[str]
    """The registry: a file or a folder."""
    name: Positional[str]
    """The concept's name."""

    def __post_init__(self) -> None:
        check_options(self)


def main(args: Sequence[str]) -> int:
    """Run the command that the first word names; gives the exit code."""
    commands: dict[str, tuple[Any, Callable[[Any], int]]] = {
        "new": (NewOptions, start), "add": (AddOptions, add), "list": (ListOptions, show),
        "check": (CheckOptions, check), "drop": (DropOptions, drop), "plan": (PlanOptions, print_plan),
    }  # fmt: skip
    if not args or args[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if args[0] not in commands:
        raise UserError(unknown_verb(args[0], commands, "registry"))
    options, command = commands[args[0]]
    return command(read_options(options, args[1:], prog=f"python -m merge registry {args[0]}"))


def start(options: NewOptions) -> int:
    """Write an empty registry."""
    partition = Partition(num_blocks=options.blocks, axis=options.axis, seed=options.partition_seed)
    digest = ""
    if options.model is not None:
        # Imported late: reading a model brings Flax.
        from blocklora_jax.checkpoints.diffusers import load_folder
        from blocklora_jax.checkpoints.digest import params_digest

        digest = params_digest(load_folder(options.model, variant=options.variant, dtype="float16").params)
    registry = Registry(partition=partition, base_name=options.model or "", base_digest=digest)
    print(f"wrote {create_registry(options.where, registry)}: {options.blocks} free slots")
    return 0


def add(options: AddOptions) -> int:
    """Claim slots in the registry and say how to train on them."""
    token = options.token or concept_token(options.name)

    def claim(registry: Registry) -> Registry:
        slots = options.slot or registry.draw_slots(options.name, options.draw, options.count)
        today = date.today().isoformat()
        return registry.claim(Entry(name=options.name, token=token, slots=slots, owner=options.owner, date=today))

    registry = update_registry(options.where, claim)
    slots = " ".join(str(slot) for slot in registry.find(token).slots)
    partition = registry.partition
    print(f"{options.name!r} owns slot {slots}; train it with --token '{token}' --registry {options.where}")
    print(
        f"(the same as --blocks {partition.num_blocks} --axis {partition.axis} --partition-seed {partition.seed}",
        end="",
    )
    print(f" --slot {slots}{f' --model {registry.base_name}' if registry.base_name else ''})")
    return 0


def show(options: ListOptions) -> int:
    """Print all entries."""
    registry = read_registry(options.where)
    partition, base = registry.partition, registry.base_name or "any model"
    print(f"{partition.num_blocks} slots of {base}, axis {partition.axis!r}, seed {partition.seed}")
    rows = [("slots", "name", "token", "date", "owner")]
    for entry in sorted(registry.entries, key=lambda entry: entry.slots):
        rows.append((", ".join(map(str, entry.slots)), entry.name, entry.token, entry.date, entry.owner))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    free = registry.free_slots()
    print(f"free: {', '.join(map(str, free)) or 'none'}")
    for collision in registry.collisions():
        print(f"collision: {collision}")
    return 0


def check(options: CheckOptions) -> int:
    """Print all that is wrong, and give 1 if anything is."""
    registry = read_registry(options.where)
    problems = registry.collisions()
    for path in options.files:
        try:
            problems += [f"{path}: {problem}" for problem in claim_problems(registry, Adapter.load(path))]
        except UserError as error:
            problems.append(str(error))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "no collisions")
    return 1 if problems else 0


def claim_problems(registry: Registry, adapter: Adapter) -> list[str]:
    """Where an adapter differs from its claim."""
    info, problems = adapter.info, []
    if registry.base_digest and info.base_digest and registry.base_digest != info.base_digest:
        problems.append(f"trained on {info.base_name or 'another model'}, not on {registry.base_name}")
    if info.partition != registry.partition:
        return [*problems, f"cut by {info.partition or 'no blocks'}, not by {registry.partition}"]
    mine = [entry for entry in registry.entries if entry.token in adapter.tokens or entry.name == adapter.name]
    if not mine:
        problems.append(f"{adapter.name!r} is not registered, and owns slot {_text(info.slots)}")
    elif not set(info.slots) <= {slot for entry in mine for slot in entry.slots}:
        problems.append(f"owns slot {_text(info.slots)}, but {mine[0]} registered slot {_text(mine[0].slots)}")
    others = [entry for entry in registry.entries if entry not in mine and set(entry.slots) & set(info.slots)]
    return problems + [f"slot {_text(sorted(set(e.slots) & set(info.slots)))} is registered by {e}" for e in others]


def drop(options: DropOptions) -> int:
    """Remove an entry."""
    registry = update_registry(options.where, lambda registry: registry.drop(options.name))
    print(f"dropped {options.name!r}; free: {_text(registry.free_slots())}")
    return 0


def _text(slots: Sequence[int]) -> str:
    return ", ".join(str(slot) for slot in slots)
