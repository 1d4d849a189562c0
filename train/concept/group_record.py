"""Records which concepts a group trains. A group that is resumed is refused if they have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_json
from blocklora_jax.io.json_text import read_json
from blocklora_jax.io.printing import printable
from train.concept.config import ConceptConfig
from train.engine.checkpoint_folder import CheckpointFolder
from train.engine.log import all_metrics

FILE = "group.json"
# Metrics of a group of several concepts have a diffusion loss for each, which ends with the concept's name.
OF_ONE = "diffusion_loss/"
_MOST_NAMED = 3


def write_group_record(configs: Sequence[ConceptConfig], group: Path) -> None:
    """Record in the folder of a group the tokens and folder names of its concepts, in their order."""
    concepts = [{"token": token, "folder": folder} for token, folder in _concepts(configs)]
    write_json(group / FILE, {"concepts": concepts})


def recorded_concepts(group: Path) -> list[tuple[str, str]] | None:
    """The token and folder name of each concept of a group; None for groups of older versions, which have no record.

    Raises: UserError for a damaged record.
    """
    path = group / FILE
    if not path.exists():
        return None
    try:
        return [(str(each["token"]), str(each["folder"])) for each in read_json(path)["concepts"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not the record of a group: put back the one that was written there") from error


def names_in_metrics(group: Path) -> set[str]:
    """The names of a group's concepts, as its metrics have them; none if there is only one, or there are no metrics."""
    keys = [key for line in all_metrics(group / "metrics.jsonl")[:1] for key in line]
    return {key.removeprefix(OF_ONE) for key in keys if key.startswith(OF_ONE)}


def check_same_groups(groups: Mapping[Path, Sequence[ConceptConfig]]) -> None:
    """Check the concepts of groups that go on from a checkpoint, which has only their numbers.

    groups: the concepts of each, by its folder.

    Raises: UserError if a group began with other concepts, or with the same in another order.
    """
    for folder, configs in groups.items():
        if CheckpointFolder(folder / "checkpoints").steps() and (changed := _changed(folder, configs)):
            raise UserError(
                f"cannot resume {folder} with other concepts: {'; '.join(changed[:_MOST_NAMED])}: give the concepts "
                "that the run began with, in their order and with the same --at-once; teach others with another --out"
            )


def _changed(folder: Path, configs: Sequence[ConceptConfig]) -> list[str]:
    """Which concepts of a group are not those that it began with, in words."""
    before = recorded_concepts(folder)
    if before is None:
        # A group of an older version. The order of its concepts is not known.
        was, now = names_in_metrics(folder), {config.name for config in configs}
        return [f"it began with {', '.join(sorted(was))}"] if was and was != now else []
    pairs = enumerate(zip_longest(before, _concepts(configs)), start=1)
    return [f"number {i} was {_shown(was)}, now {_shown(now)}" for i, (was, now) in pairs if was != now]


def _concepts(configs: Sequence[ConceptConfig]) -> list[tuple[str, str]]:
    return [(config.token, config.out.name) for config in configs]


def _shown(concept: tuple[str, str] | None) -> str:
    return printable(f"{concept[0]} in {concept[1]}/") if concept else "none"
