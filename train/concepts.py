"""Teach a model many concepts in one program: `python -m train.concepts --concepts FILE_OR_DIR --out runs/fifteen`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.checks.names import plain_name, same_name
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.registry.store import read_registry
from train.concept.batch_training import OF_ITS_OWN, check_equal, train_together
from train.concept.claims import check_base, use_claim
from train.concept.config import ConceptConfig, parse_args, read_yaml, settings_as_flags
from train.concept.run import load_base
from train.concept.run_folder import check_run_dir, hold_run_folders, keep_off_inputs, refuse_others_files
from train.concept.setting_types import check_settings
from train.engine.platform import is_first_host, select_platform
from train.engine.pod import peers_watched

# Below --out, beside the concepts' own folders.
_GROUPS = "groups"


@dataclass(frozen=True, kw_only=True)
class ConceptsOptions:
    """Teach a model many concepts in one program, each as if it were alone; every adapter is a file of its own.

    All other settings are those of `python -m train.concept` (see its --help) and hold for all concepts.
    """

    concepts: Path
    """A YAML file `name: {class_noun: …, images: …, token: …, slot: …}`, or a folder of folders of pictures, each with such settings in its concept.yaml."""
    out: Path
    """Run folder: each concept's adapter.safetensors and previews/ in a folder of its name; metrics in groups/."""
    at_once: int = 16
    """How many concepts train at the same time: what fits in memory. The others follow in groups."""

    def __post_init__(self) -> None:
        check_options(self)


def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    # With unknown arguments let through, tyro gives a pair.
    parsed: Any = read_options(ConceptsOptions, args, prog="python -m train.concepts", return_unknown_args=True)
    options, rest = parsed
    configs = read_concepts(options, rest)
    platform = select_platform(configs[0].run.tpu, configs[0].run.gpu, configs[0].run.cpu)
    with peers_watched():
        paths = train_concepts(configs, options, platform)
    if is_first_host():
        print("\n".join(f"{path} ({c.trigger})" for path, c in zip(paths, configs, strict=True)))


def train_concepts(configs: Sequence[ConceptConfig], options: ConceptsOptions, platform: str) -> list[Path]:
    """Train all concepts, `options.at_once` at a time; returns the paths of their adapter files.

    Raises: UserError for anything wrong with settings or pictures, or a run that diverges.
    """
    check_equal(configs)
    registry = read_registry(configs[0].adapter.registry) if configs[0].adapter.registry else None
    configs = give_slots([use_claim(config, registry) for config in configs])
    check_apart(configs)
    groups = options.out / _GROUPS
    keep_off_inputs(configs, [groups])
    with hold_run_folders([*(config.out for config in configs), groups], lambda: _check_folders(configs, groups)):
        sd = load_base(configs[0].model, configs[0].base, platform)
        check_base(registry, params_digest(sd.params), configs[0].model)
        paths: list[Path] = []
        for start in range(0, len(configs), options.at_once):
            group = configs[start : start + options.at_once]
            paths += train_together(group, sd, groups / f"{start // options.at_once:03d}")
        return paths


def _check_folders(configs: Sequence[ConceptConfig], groups: Path) -> None:
    """Raises UserError as `check_run_dir` for each concept; a run that was interrupted has begun some of them only."""
    begun = [config for config in configs if (config.out / "config.json").exists()] if configs[0].run.resume else []
    for config in begun or configs:
        check_run_dir(config)
    for config in configs if begun else ():
        if config not in begun:
            refuse_others_files(config.out)
    for folder in sorted(groups.glob("*/")) if not configs[0].run.resume else ():
        refuse_others_files(folder)


def read_concepts(options: ConceptsOptions, flags: Sequence[str]) -> list[ConceptConfig]:
    """The configuration of each concept that `options.concepts` names, under the common `flags`.

    Raises: UserError for a file or folder that is missing or malformed, or settings that a concept cannot have of its own.
    """
    entries = _read_folder(options.concepts) if options.concepts.is_dir() else _read_file(options.concepts)
    if not entries:
        raise UserError(f"{options.concepts} names no concepts")
    _check_names(entries, options.concepts)
    configs = []
    for name, settings in entries.items():
        # YAML has numbers, dates and more for keys.
        settings = {str(key): value for key, value in settings.items()}
        if "out" in settings:
            raise UserError(
                f"{options.concepts}: {name} sets 'out', but its folder is {options.out / name}: leave it out"
            )
        if foreign := sorted({key.replace("-", "_") for key in settings} - OF_ITS_OWN):
            raise UserError(f"{options.concepts}: {name} sets {foreign[0]!r}, which holds for all: give it as a flag")
        own = {"images": name, "token": concept_token(name), **settings, "out": str(options.out / name)}
        if "class_noun" not in {key.replace("-", "_") for key in settings}:
            raise UserError(f"{options.concepts}: {name} needs a class_noun: what it is, such as 'dog'")
        check_settings(f"{options.concepts}: {name}", settings, ConceptConfig)
        configs.append(parse_args([*flags, *settings_as_flags(own)]))
    return configs


def check_apart(configs: Sequence[ConceptConfig]) -> None:
    """Raises: UserError for two concepts that can never be merged: of one token, or with a slot in common."""
    for one, other in itertools.combinations(configs, 2):
        names = f"{one.out.name} and {other.out.name}"
        if one.token == other.token:
            raise UserError(
                f"{names} both have the token {one.token} and could never be merged: give one of them another `token`"
            )
        has_slots = one.adapter.blocks or one.adapter.down == "orthogonal"
        if has_slots and (shared := sorted(set(one.adapter.slot or ()) & set(other.adapter.slot or ()))):
            raise UserError(
                f"{names} both have slot {', '.join(map(str, shared))} and could never be merged: give one of them"
                " another `slot`, or none, and a free one is found"
            )


def give_slots(configs: Sequence[ConceptConfig]) -> list[ConceptConfig]:
    """`configs` where those without a slot have the lowest free one, if they have slots at all.

    Raises: UserError if there are more concepts than slots.
    """
    blocks, orthogonal = configs[0].adapter.blocks, configs[0].adapter.down == "orthogonal"
    if not blocks and not orthogonal:
        return list(configs)
    taken = {slot for config in configs for slot in config.adapter.slot or ()}
    # How many rows a basis has only the model tells: `prepare` looks whether they suffice.
    slots = itertools.count() if orthogonal else range(blocks)
    free = iter(slot for slot in slots if slot not in taken)
    given = []
    for config in configs:
        slot = config.adapter.slot or tuple([s for s in [next(free, None)] if s is not None])
        if not slot:
            raise UserError(
                f"{len(configs)} concepts do not fit in {blocks} slots: use --blocks {len(configs)} or more"
            )
        given.append(config.with_settings(slot=slot))
    return given


def _check_names(names: Iterable[str], source: Path) -> None:
    """Raises: UserError for names that cannot be folders beside each other in --out, on any system."""
    seen: dict[str, str] = {_GROUPS: _GROUPS}
    for name in names:
        plain_name(name, f"{printable(str(source))}: the concept's name")
        before = seen.setdefault(same_name(name), name)
        if name == _GROUPS or before == _GROUPS:
            raise UserError(
                f"{printable(str(source))}: a concept cannot be named {name!r}: --out has a folder {_GROUPS}/"
            )
        if before is not name:
            raise UserError(
                f"{printable(str(source))}: {before!r} and {name!r} are one folder where case does not"
                " count: rename one"
            )


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    entries = read_yaml(path)
    wrong = [name for name, value in entries.items() if not isinstance(value, Mapping)]
    if wrong:
        raise UserError(
            f"{path}: {printable(wrong[0])} must be a mapping of settings, such as {{class_noun: dog, images: my_dog}}"
        )
    # Folders are named from where the file lies; a bare name may be a packaged concept.
    return {str(name): _from(path.parent, dict(value)) for name, value in entries.items()}


def _read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    entries = {}
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not (child / "concept.yaml").exists():
            raise UserError(f"{child} has no concept.yaml: write `class_noun: dog`, or what it is, into one")
        entries[child.name] = {"images": str(child), **_from(child, read_yaml(child / "concept.yaml"))}
    return entries


def _from(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    images = settings.get("images")
    if isinstance(images, str) and images and (folder / images).is_dir():
        return settings | {"images": str(folder / images)}
    return settings


if __name__ == "__main__":
    run(main)
