"""The flags of a merge depend on `--method NAME`: those of every merge, and the settings of that method."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from functools import cache

from tyro.conf import OmitArgPrefixes

from blocklora_jax.command_line.command import unknown_command
from blocklora_jax.command_line.options import flag_of
from blocklora_jax.errors import UserError
from merge.cli.options import MergeOptions
from merge.methods.table import METHODS


def method_of(args: Sequence[str]) -> str:
    """The name after `--method` in `args`, or "sum" if there is none. Raises UserError for an unknown method."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--method", nargs="?")
    try:
        name = reader.parse_known_args(args)[0].method
    except argparse.ArgumentError:
        name = None
    if name is not None and name not in METHODS:
        raise UserError(unknown_command(name, METHODS, kind="method"))
    return name or MergeOptions.method


@cache
def options_of(method: str) -> type[MergeOptions]:
    """The class of all options of a merge by `method`: `MergeOptions` with one more field, `method_settings`."""
    settings = METHODS[method].settings
    field = ("method_settings", OmitArgPrefixes[settings], settings())
    options = make_dataclass("MergeOptions", [field], bases=(MergeOptions,), frozen=True, kw_only=True)
    # tyro finds the help of the inherited fields in this module.
    options.__module__ = MergeOptions.__module__
    return options


def refuse_others_flags(args: Sequence[str], method: str) -> None:
    """Raises UserError for a flag that only other methods have."""
    known = _flags(method)
    for arg in args:
        flag = arg.partition("=")[0].replace("_", "-").replace("--no-", "--")
        methods = [name for name in METHODS if flag in _flags(name)]
        if methods and flag not in known:
            raise UserError(
                f"{flag} is a setting of the method {' or '.join(methods)}, not of {method}: leave it out, or choose "
                f"--method {methods[0]}"
            )


def _flags(method: str) -> set[str]:
    settings = METHODS[method].settings
    return {flag_of(settings, field.name) for field in fields(settings)}
