"""Settings by name, as flags and files have them: `rank`, not `adapter.rank`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blocklora_jax.storage.copies import original
from train.concept.settings.old_names import to_file_keys

# All settings, in the order in which config.json and an adapter's "training" header list them.
NAMES = tuple(
    "images token class_noun out model variant kind resume"
    " layers rank alpha down blocks axis slot registry partition_seed basis assignment"
    " token_vectors token_spread negative_spread negative_tokens"
    " token_side token_side_margin token_side_own token_norm_limit token_start negatives_from"
    " erase erase_weight random_batch random_shares random_styles random_subjects random_scenes pure_noise other_images"
    " class_images class_count"
    " steps batch accumulate optimizer learning_rate text_learning_rate token_learning_rate weight_decay warmup_steps"
    " schedule clip_norm ema"
    " weighting snr_gamma noise_offset flip crop"
    " crop_to_mask aspect_buckets caption_prefix shuffle_tags caption_dropout"
    " resolution precision base_dtype remat attention save_dtype seed tpu gpu cpu mapper"
    " log_every save_every previews preview_every preview_prompts report tensorboard wandb"
    " push private license replace".split()
)


class Later(NamedTuple):
    """Settings that a newer version added, with the values that older versions had without them.

    Files leave all of `values` out if those named in `deciding` have these values, so that they equal files of older
    versions. The others have no effect then.
    """

    values: Mapping[str, Any]
    deciding: tuple[str, ...]

    @classmethod
    def alone(cls, name: str, value: Any) -> Later:
        """One setting, which files leave out if it has the old value."""
        return cls({name: value}, (name,))

    def is_old(self, settings: Mapping[str, Any]) -> bool:
        """Whether a file with `settings` leaves these settings out."""
        return all(settings[name] == self.values[name] for name in self.deciding)


_TOKEN_SIDE = Later(
    {
        "assignment": "layer",
        "token_side": 0.0,
        "token_side_margin": 2.5,
        "token_side_own": "rest",
        "token_norm_limit": 3.0,
        "token_start": "noun",
        "negatives_from": "nouns",
    },
    ("assignment", "token_side", "token_start", "negatives_from"),
)
LATER_GROUPS = (
    _TOKEN_SIDE,
    Later.alone("accumulate", 1),
    Later.alone("optimizer", "adamw"),
    Later.alone("schedule", "cosine"),
    Later.alone("ema", 0.0),
    Later.alone("previews", True),
    Later.alone("attention", "auto"),
    Later.alone("base_dtype", "auto"),
    Later.alone("crop_to_mask", False),
    Later.alone("aspect_buckets", False),
    Later({"class_images": None, "class_count": 50}, ("class_images",)),
    Later.alone("caption_prefix", None),
    Later.alone("shuffle_tags", False),
    Later.alone("caption_dropout", 0.0),
    Later.alone("push", None),
    Later.alone("private", False),
    Later.alone("license", None),
    Later.alone("replace", False),
    Later.alone("report", True),
    Later.alone("wandb", "off"),
)
# All newer settings, with their old values.
LATER = {name: value for group in LATER_GROUPS for name, value in group.values.items()}


def nest(settings: Mapping[str, Any], groups: Mapping[str, type]) -> dict[str, Any]:
    """Arguments of a class with `groups`, by field, from settings by name."""
    rest, arguments = dict(settings), {}
    for field, group in groups.items():
        names = [each.name for each in dataclasses.fields(group) if each.name in rest]
        arguments[field] = group(**{name: rest.pop(name) for name in names})
    return rest | arguments


def flatten(config: Any, groups: Mapping[str, type]) -> dict[str, Any]:
    """All settings of `config` by name, without groups; the inverse of `nest`."""
    flat = dict(vars(config))
    for field in groups:
        flat |= vars(flat.pop(field))
    return flat


def to_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON values, by the keys of files and in the order of `NAMES`. Paths become strings.

    Newer settings with old values are left out, see `Later`.
    """
    values = {name: _json_value(settings[name]) for name in NAMES}
    left_out = {name for group in LATER_GROUPS if group.is_old(values) for name in group.values}
    return to_file_keys({name: value for name, value in values.items() if name not in left_out})


def with_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `to_json`, with the settings that it has left out."""
    return {**LATER, **values}


def _json_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, tuple):
        return tuple(map(_json_value, value))
    return original(str(value)) if isinstance(value, (Path, str)) else value
