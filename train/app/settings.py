"""The settings of training that the page does not ask for: those of `--config`, or the defaults."""

from __future__ import annotations

from blocklora_jax.errors import UserError
from train.app.options import AppOptions
from train.concept.config import ConceptConfig, parse_args

# What every run needs and the page asks for.
_PLACEHOLDERS = {"--images": "ada", "--token": "<new>", "--class-noun": "thing", "--out": "new", "--slot": "None"}


def training_settings(options: AppOptions) -> ConceptConfig:
    """The settings of a run, with placeholders for what the page asks for.

    Raises: UserError for a file that cannot be used, and for settings that the model does not have.
    """
    args = ["--config", str(options.config)] if options.config else []
    args += [word for pair in _PLACEHOLDERS.items() for word in pair]
    given = {"--model": options.model, "--variant": options.variant}
    args += [word for flag, value in given.items() if value is not None for word in (flag, value)]
    try:
        return parse_args(args)
    except SystemExit as error:  # tyro has printed the reason.
        raise UserError(f"--config {options.config} cannot be used: see the lines above") from error
