"""A check that texts have no invisible characters, because these would become tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from blocklora_jax.errors import UserError
from blocklora_jax.io.printing import visible_text


def check_visible(settings: Any, names: Iterable[str], *, only_spaces: bool = False) -> None:
    """Raises UserError if a text in the fields `names` of `settings` has invisible characters.

    The fields are texts or lists of texts. only_spaces: allow no white space other than ordinary spaces.
    """
    for name in names:
        value = getattr(settings, name)
        for text in (value,) if isinstance(value, str) else value:
            written = text.replace(" ", "") if only_spaces else "".join(text.split())
            if written != "".join(visible_text(text).split()):
                raise UserError(
                    f"--{name.replace('_', '-')} {text!r} has invisible characters: write {visible_text(text)!r}"
                )
