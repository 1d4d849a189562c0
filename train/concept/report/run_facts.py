"""What the files of a run folder say, for its report."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from blocklora_jax.errors import UserError
from blocklora_jax.io.json_text import read_json
from train.concept.config import ConceptConfig
from train.concept.group_record import OF_ONE, names_in_metrics, recorded_concepts
from train.concept.input_record import without_records
from train.concept.settings.concept_name import ConceptName
from train.concept.settings.flat import with_later
from train.engine.log import all_metrics

# Settings with paths of this machine. A report may be given to others, so it names only the last part of them.
_PATHS = ("images", "model", "basis", "class_images", "other_images")
_NEVER_SHOWN = frozenset("out registry resume cpu gpu tpu".split())
_REQUIRED = frozenset("images token class_noun out".split())


class RunFacts(NamedTuple):
    """concept: how it is called. settings: as in config.json, and those that it leaves out. metrics: the lines of its
    metrics.jsonl. previews: their files by step. adapter: its file, None as long as there is none.
    """

    folder: Path
    concept: ConceptName
    settings: dict[str, Any]
    metrics: list[dict[str, Any]]
    previews: dict[int, Path]
    adapter: Path | None

    @property
    def steps(self) -> int:
        """The steps that were asked for; 0 if the settings do not say."""
        return _whole(self.settings.get("steps"))

    @property
    def done(self) -> int:
        """The last step that a metric or a preview tells of."""
        return max([0, *(line["step"] for line in self.metrics[-1:]), *self.previews])

    @property
    def name(self) -> str:
        """The concept's name: the token without its brackets."""
        return self.concept.token.strip("<>")


def read_run(folder: Path, metrics: Path | None = None) -> RunFacts:
    """The facts of the run in `folder`.

    metrics: the folder of its metrics.jsonl, if it is another one, as for concepts that were trained together. If it is
    not given and the run has no metrics of its own, the folder groups/ beside it is searched.

    Raises: UserError if there is no run, or its settings cannot be read.
    """
    path = folder / "config.json"
    settings = read_json(path) if path.is_file() else None
    if not isinstance(settings, dict) or not isinstance(settings.get("token"), str):
        raise UserError(f"there is no run of `python -m train.concept` in {folder}: it has no config.json of one")
    values = with_later(without_records(settings))
    kind = values.get("kind") if values.get("kind") in ("person", "object", "scene", "style") else "object"
    vectors = _whole(values.get("token_vectors", 1))
    concept = ConceptName(values["token"], str(values.get("class_noun", "")), kind, vectors)  # pyright: ignore
    previews = {int(p.stem): p for p in sorted((folder / "previews").glob("*.png")) if p.stem.isdecimal()}
    adapter = folder / "adapter.safetensors"
    lines = _metrics_of(folder, metrics, concept.token.strip("<>"))
    return RunFacts(folder, concept, values, lines, previews, adapter if adapter.is_file() else None)


def shown_settings(settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """(The settings that differ from the defaults, all others), as texts. Paths are cut to their last part."""
    example = ConceptConfig(images=Path("a"), token="<a>", class_noun="a", out=Path("a"))
    # As JSON has them: lists, not tuples.
    defaults = json.loads(json.dumps(with_later(example.to_json())))
    chosen, others = {}, {}
    for name in [name for name in settings if name not in _NEVER_SHOWN]:
        is_default = name not in _REQUIRED and name in defaults and defaults[name] == settings[name]
        (others if is_default else chosen)[name] = _text(name, settings[name])
    return chosen, others


def _metrics_of(folder: Path, given: Path | None, name: str) -> list[dict[str, Any]]:
    """The lines of metrics, with the concept's own loss in place of the mean over several concepts."""
    if given is None and not (folder / "metrics.jsonl").is_file():
        given = _group_of(folder, name)
    return _own_lines(all_metrics((given or folder) / "metrics.jsonl"), name)


def _group_of(folder: Path, name: str) -> Path | None:
    """The folder of the group, beside `folder`, that the concept was trained in; None if it is not known."""
    groups = sorted(path.parent for path in (folder.parent / "groups").glob("*/metrics.jsonl"))
    for group in groups:
        concepts = recorded_concepts(group)
        if name in names_in_metrics(group) if concepts is None else folder.name in [each for _, each in concepts]:
            return group
    # The metrics of a group of one concept do not say whose they are.
    is_only_run = len(groups) == 1 and len(list(folder.parent.glob("*/config.json"))) == 1
    is_unnamed = is_only_run and recorded_concepts(groups[0]) is None and not names_in_metrics(groups[0])
    return groups[0] if is_unnamed else None


def _own_lines(lines: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """`lines` as of the concept `name` alone; none if they are of other concepts."""
    together = any(key.startswith(OF_ONE) for line in lines[:1] for key in line)
    if not together:
        return lines
    if OF_ONE + name not in lines[0]:
        return []
    return [
        {key: value for key, value in line.items() if "/" not in key} | {"diffusion_loss": line.get(OF_ONE + name)}
        for line in lines
    ]


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _text(name: str, value: Any) -> str:
    if name in _PATHS and isinstance(value, str) and not value.startswith("hub:"):
        is_path = PurePath(value).is_absolute() or Path(value).exists() or name != "model"
        value = PurePath(value).name if is_path else value
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "" if value is None else str(value)
