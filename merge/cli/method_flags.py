"""The flags of a merge depend on `--method NAME`: those of every merge, and the settings of that method."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from functools import cache

from tyro.conf import OmitArgPrefixes

from blocklora_jax.command_line.command import unknown_command
from blocklora_jax.command_line.options import flag_of
from blocklora_jax.diffusion.samplers.table import get_sampler
from blocklora_jax.errors import UserError
from merge.cli.options import MergeOptions
from merge.methods.table import METHODS, SHORT_NAMES


def method_of(args: Sequence[str]) -> str:
    """The method after `--method` in `args`, or "sum" if there is none. Raises UserError for an unknown method."""
    name = _value_of("--method", args)
    name = SHORT_NAMES.get(name or "", name)
    if name is not None and name not in METHODS:
        raise UserError(unknown_command(name, METHODS, kind="method"))
    return name or MergeOptions.method


def check_sampler(args: Sequence[str]) -> None:
    """Raises UserError for an unknown sampler in `args`. It says more than a list of those that are known."""
    if (name := _value_of("--sampler", args)) is not None:
        get_sampler(name)


def with_full_name(args: Sequence[str], method: str) -> list[str]:
    """`args` with `method`, the name in the table, in the place of a short name.

    >>> with_full_name(["a.safetensors", "--method", "fit"], "joint_fit")
    ['a.safetensors', '--method', 'joint_fit']
    """
    changed, after_flag = [], False
    for arg in args:
        if after_flag and arg in SHORT_NAMES:
            arg = method
        elif arg.startswith("--method=") and arg.removeprefix("--method=") in SHORT_NAMES:
            arg = f"--method={method}"
        after_flag = arg == "--method"
        changed.append(arg)
    return changed


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
                f"{flag} is a setting of the method {_either(methods)}, not of {method}: leave it out, or choose "
                f"--method {methods[0]}"
            )


def _value_of(flag: str, args: Sequence[str]) -> str | None:
    """What follows `flag` in `args`; None if it is not there."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument(flag, nargs="?", dest="value")
    try:
        return reader.parse_known_args(args)[0].value
    except argparse.ArgumentError:
        return None


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _flags(method: str) -> set[str]:
    settings = METHODS[method].settings
    return {flag_of(settings, field.name) for field in fields(settings)}
