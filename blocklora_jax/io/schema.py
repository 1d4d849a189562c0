"""Typed, bounded fields for headers and JSON. pydantic checks them before anything is built from them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import printable

T = TypeVar("T")
_SHOWN = 3


class Schema(BaseModel):
    """A JSON object whose fields have exactly the stated types, and which has no other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _is_printable(text: str) -> str:
    if text != printable(text):
        raise ValueError("it has control characters or line ends")
    return text


# One line of text that a terminal can show.
Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_is_printable)]
# "<ada>"
Token = Annotated[str, StringConstraints(pattern=r"^<[^<>\s]{1,98}>$", max_length=100), AfterValidator(_is_printable)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
# Features of a layer or rows of a table. The bound is larger than in any model.
Width = Annotated[int, Field(ge=1, le=1 << 20)]
Shape = Annotated[list[Width], Field(min_length=2, max_length=2)]


def validated(schema: type[T], value: Any, source: str) -> T:
    """`value`, from JSON, as `schema`. Raises UserError that begins with `source` and names the wrong fields."""
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg'].lower()}" for item in error.errors()]
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(f"{source}: {'; '.join(wrong[:_SHOWN])}{more}") from error
    except RecursionError as error:
        raise UserError(f"{source}: it is nested too deeply") from error


@cache
def _adapter(schema: type[Any]) -> Any:
    return TypeAdapter(schema)
