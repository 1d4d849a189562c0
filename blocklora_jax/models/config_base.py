"""The base of all model configs: fields read from and written to the `config.json` of diffusers and transformers.

A field is of one of three kinds. It shapes the model (a dataclass field), or only one of its values is supported so
far (`FIXED`), or it does not affect the computation (`BOOKKEEPING`). Any other field is an error: nothing is ignored.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from blocklora_jax.errors import UserError

_MOST, _MOST_LAYERS = 1 << 20, 256


def _matches(value: object, hint: Any) -> bool:
    """Whether `value` has the type `hint`, one of those used below. A bool does not count as a number."""
    if isinstance(hint, types.UnionType):
        return any(_matches(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_matches(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _python_value(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _json_value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


# Not typing.Self: beartype supports it only where it decorates the whole class.
AnyConfig = TypeVar("AnyConfig", bound="ModelConfig")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Reads, writes and checks a config field by field."""

    FIXED: ClassVar[Mapping[str, Any]] = {}
    BOOKKEEPING: ClassVar[frozenset[str]] = frozenset()
    HEADER: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def from_json(cls: type[AnyConfig], raw: Mapping[str, Any], source: str) -> AnyConfig:
        """The config in the parsed `config.json` `raw`; absent fields take the default of diffusers/transformers.

        Raises: UserError naming `source`, every field at fault, its value and what is supported.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        problems = [
            f"{name}={raw[name]!r} (supported: {fixed!r})"
            for name, fixed in cls.FIXED.items()
            if name in raw and raw[name] != fixed
        ]
        unknown = sorted(set(raw) - names - set(cls.FIXED) - cls.BOOKKEEPING)
        problems += [f"{name}={raw[name]!r} (unknown field)" for name in unknown]
        values = {name: _python_value(raw[name]) for name in names & set(raw)}
        problems += cls._find_wrong_types(values)
        if problems:
            raise UserError(f"{source}: unsupported {cls.__name__} values: {'; '.join(problems)}")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """A `config.json` that diffusers or transformers read as this same model."""
        values = {field.name: _json_value(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {**self.HEADER, **values, **self.FIXED}

    def __post_init__(self) -> None:
        problems = self._find_wrong_types({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        self._require(not problems, "; ".join(problems))
        for field in dataclasses.fields(self):
            self._require_possible(field.name, getattr(self, field.name))

    @classmethod
    def _find_wrong_types(cls, values: Mapping[str, Any]) -> list[str]:
        hints = typing.get_type_hints(cls)
        types_ = {field.name: field.type for field in dataclasses.fields(cls)}
        wrong = sorted(name for name, value in values.items() if not _matches(value, hints[name]))
        return [f"{name}={_json_value(values[name])!r:.100} (supported: {types_[name]})" for name in wrong]

    def _require_possible(self, name: str, value: object) -> None:
        """Refuses numbers larger than any real model's: a bad file must not make us compute for ever."""
        most = _MOST_LAYERS if "layers" in name else _MOST
        items = value if isinstance(value, tuple) else (value,)
        self._require(len(items) <= _MOST_LAYERS, f"{name} has {len(items)} entries, more than any model")
        for item in items:
            if isinstance(item, tuple):
                self._require_possible(name, item)
            elif isinstance(item, int | float):
                self._require(abs(item) <= most, f"{name}={value!r} is larger than any model's (at most {most})")

    def _require(self, condition: bool, message: str) -> None:
        if not condition:
            raise UserError(f"{type(self).__name__}: {message}")

    def _require_size(self) -> None:
        """`sample_size`: one side, or height and width."""
        size = getattr(self, "sample_size", None)
        sides = size if isinstance(size, tuple) else () if size is None else (size,)
        fits = all(side > 0 for side in sides) and (not isinstance(size, tuple) or len(size) == 2)
        self._require(fits, f"sample_size={_json_value(size)!r} must be a positive number, or two of them")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            items = value if isinstance(value, tuple) else (value,)
            self._require(len(items) > 0 and all(item > 0 for item in items), f"{name}={value!r} must be positive")

    def _require_block_types(self, name: str, supported: tuple[str, ...]) -> None:
        for block_type in getattr(self, name):
            self._require(block_type in supported, f"{name} has {block_type!r}; supported: {', '.join(supported)}")
