"""The concepts of a YAML file, or of a folder of folders of pictures, as configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocklora_jax.checks.names import plain_name, same_name
from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.storage.address import is_remote
from blocklora_jax.storage.copies import local_copy, original
from blocklora_jax.storage.objects import ObjectFolder, list_names
from train.concept.common_settings import OF_ITS_OWN
from train.concept.config import ConceptConfig, is_setting, parse_args, read_flags, read_yaml, settings_as_flags
from train.concept.config_files import find_config
from train.concept.setting_types import check_settings
from train.concept.settings.old_names import rename_settings
from train.concepts_options import GROUPS, ConceptsOptions


def read_concepts(options: ConceptsOptions, flags: Sequence[str]) -> list[ConceptConfig]:
    """The configuration of each concept that `options.concepts` names, under the common `flags`.

    Raises: UserError for a file or folder that is missing or malformed, or a setting that must be the same for all.
    """
    source, shown = local_copy(options.concepts), original(str(options.concepts))
    entries = _read_folder(source) if source.is_dir() else _read_file(source)
    if not entries:
        raise UserError(f"{shown} names no concepts")
    _check_names(entries, printable(shown))
    configs, flags = [], read_flags(flags)
    for name, settings in entries.items():
        where = f"{shown}: {name}"
        # Keys of a YAML mapping may be numbers, dates and other types.
        settings = rename_settings(where, {str(key): value for key, value in settings.items()})
        if "out" in settings:
            raise UserError(f"{where} sets 'out', but its folder is {options.out / name}: leave it out")
        if common := sorted({key.replace("-", "_") for key in settings} - OF_ITS_OWN):
            raise UserError(f"{where} sets {common[0]!r}, which is the same for all concepts: give it as a flag")
        all_settings = {"images": name, "token": concept_token(name), **settings, "out": str(options.out / name)}
        if "class_noun" not in {key.replace("-", "_") for key in settings}:
            raise UserError(f"{where} needs a class_noun: what it is, such as 'dog'")
        check_settings(where, settings, ConceptConfig)
        configs.append(parse_args([*flags, *settings_as_flags(all_settings)]))
    return configs


def _check_names(names: Iterable[str], source: str) -> None:
    """Raises: UserError for names that cannot be separate folders in --out on every operating system."""
    seen: dict[str, str] = {GROUPS: GROUPS}
    for name in names:
        plain_name(name, f"{source}: the concept's name")
        before = seen.setdefault(same_name(name), name)
        if name == GROUPS or before == GROUPS:
            raise UserError(f"{source}: a concept cannot be named {name!r}: --out has a folder {GROUPS}/")
        if before is not name:
            raise UserError(
                f"{source}: {before!r} and {name!r} would be one folder on systems that ignore"
                " upper and lower case: rename one"
            )


def _read_file(given: Path) -> dict[str, dict[str, Any]]:
    path = find_config(given, "--concepts")
    entries = read_yaml(path)
    wrong = [name for name, value in entries.items() if not isinstance(value, Mapping)]
    if any(map(is_setting, wrong)):
        raise UserError(
            f"--concepts {given} holds settings of a training, and lists no concepts: give it with --config, and to"
            " --concepts a file `name: {class_noun: dog, images: my_dog}`, or a folder"
        )
    if wrong:
        raise UserError(
            f"{path}: {printable(wrong[0])} must be a mapping of settings, such as {{class_noun: dog, images: my_dog}}"
        )
    # Paths of folders are relative to the folder of the file. A name without a folder may be a packaged concept.
    find = _beside(original(str(path)))
    return {str(name): _from(find, dict(value)) for name, value in entries.items()}


def _read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    entries = {}
    for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if not (child / "concept.yaml").exists():
            raise UserError(f"{child} has no concept.yaml: write `class_noun: dog`, or what it is, into one")
        find = _beside(str(child / "concept.yaml"))
        entries[child.name] = {"images": str(child), **_from(find, read_yaml(child / "concept.yaml"))}
    return entries


def _beside(file: str) -> Callable[[str], str | None]:
    """Gives the folder of a name beside `file`, a path or an address; None if there is none."""
    if not is_remote(file):
        folder = Path(file).parent
        return lambda name: str(folder / name) if (folder / name).is_dir() else None
    root = file.rpartition("/")[0]
    return lambda name: f"{root}/{name}" if list_names(ObjectFolder(f"{root}/{name}")) else None


def _from(find: Callable[[str], str | None], settings: dict[str, Any]) -> dict[str, Any]:
    images = settings.get("images")
    if isinstance(images, str) and images and not is_remote(images) and (folder := find(images)):
        return settings | {"images": folder}
    return settings
