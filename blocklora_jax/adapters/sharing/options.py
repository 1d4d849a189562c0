"""The options of commands that push an adapter when they have made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError

License = Annotated[
    str | None,
    tyro.conf.arg(
        help="The hub's word for the license of the adapter, such as apache-2.0. Default: the one that the repository "
        "states already, if any."
    ),
]
Private = Annotated[bool, tyro.conf.arg(help="Make a new repository private. Without it, everybody can see it.")]
Replace = Annotated[
    bool,
    tyro.conf.arg(
        help="Replace another adapter that the repository holds; its history keeps the old files. A new version of the "
        "same adapter needs no --replace."
    ),
]


@dataclass(frozen=True, kw_only=True)
class PushFlags:
    """Pushing the result to the Hugging Face hub."""

    push: str | None = None
    """Push the adapter to this repository on the Hugging Face hub, OWNER/NAME, when it is done. Log in first with
    `hf auth login`, or set HF_TOKEN."""
    private: Private = False
    license: License = None
    replace: Replace = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.push is None:
            for flag, is_used in {
                "--private": self.private, "--license": self.license is not None, "--replace": self.replace,
            }.items():  # fmt: skip
                if is_used:
                    raise UserError(f"{flag} is for a repository on the hub: give --push owner/name too")
