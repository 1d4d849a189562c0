"""The options of `blocklora app`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklora_jax.checks.bounds import Bound
from blocklora_jax.command_line.options import check_options

_BOUNDS = {"port": Bound(0, 65535), "largest_upload": Bound(1, 10_000)}


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """Teach, compose and share concepts in a browser.

    The app runs on this machine. Open the address that it prints.
    """

    model: str | None = None
    """The base model: "pocket" (comes with the package), a Diffusers folder, or a hub id. Default: that of --config, or
    pocket."""
    variant: Annotated[str | None, tyro.conf.arg(help='Read the weights of this variant of the model ("fp16").')] = None
    out: Path = Path("runs")
    """The folder of concepts. Each one, taught here or by `python -m train.concept`, has a folder in it. Pictures go to
    its folder pictures/, exported files to exports/."""
    config: Path | None = None
    """Settings of training: a YAML file or a shipped one, as for `python -m train.concept`. The page sets the rest."""
    host: str = "127.0.0.1"
    """The address to listen on. With the default only this machine can open the app. With 0.0.0.0 everybody in the
    network can use it, without a password."""
    port: int = 7860
    """The port to listen on. 0: any free port."""
    largest_upload: int = 64
    """Largest file that can be uploaded, in MB."""

    def __post_init__(self) -> None:
        check_options(self, _BOUNDS)
