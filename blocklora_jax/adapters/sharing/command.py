"""Pushing in commands: what they check before they begin, the pictures of a run, and the line at the end."""

from __future__ import annotations

import shlex
from pathlib import Path

from blocklora_jax.adapters.adapter_like import AdapterLike
from blocklora_jax.adapters.sharing.options import PushFlags
from blocklora_jax.adapters.sharing.push import PushSettings, check_push, push
from blocklora_jax.errors import UserError
from blocklora_jax.hub.address import HUB, parse_repository
from blocklora_jax.storage.copies import original

# The folder beside a run's adapter that holds its pictures, one file a step.
PREVIEWS = "previews"


def last_preview(adapter: Path) -> tuple[Path, ...]:
    """The newest preview of the run whose adapter is the file `adapter`; nothing if there is none."""
    return tuple(sorted((adapter.parent / PREVIEWS).glob("*.png"))[-1:])


def check_flags(flags: PushFlags, name: str) -> None:
    """Raises UserError if the result cannot be pushed as the flags say. Asks the hub. name: of the concept."""
    if flags.push is not None:
        check_push(flags.push, _settings(flags), name)


def push_result(
    flags: PushFlags,
    adapter: AdapterLike,
    file: Path,
    prompts: tuple[str, ...] | None = None,
    family: str | None = None,
) -> None:
    """Push the result of a command, which is saved in `file`, if the flags say so, with the pictures beside it.

    family: of the base model, if the adapter does not state it.

    Raises: UserError if that fails. It names the command that tries again.
    """
    if flags.push is None:
        return
    settings = _settings(flags)._replace(pictures=last_preview(file), prompts=prompts, family=family)
    try:
        push_and_report(adapter, flags.push, settings)
    except UserError as error:
        again = _push_command(file, flags.push, settings)
        raise UserError(f"{error}. The adapter is saved: `{again}` tries again") from error


def push_and_report(adapter: AdapterLike, repository: str, settings: PushSettings) -> None:
    """Push an adapter and print its address."""
    url = push(adapter, repository, settings)
    print(f"pushed {adapter.info.name!r} to {url}; load it as {HUB}{parse_repository(repository)}")


def _settings(flags: PushFlags) -> PushSettings:
    return PushSettings(private=flags.private, license=flags.license, replace=flags.replace)


def _push_command(file: Path, repository: str, settings: PushSettings) -> str:
    """The command that pushes `file` with the same settings."""
    command = ["python", "-m", "merge", "push", original(str(file)), repository]
    command += ["--private"] if settings.private else []
    command += ["--license", settings.license] if settings.license is not None else []
    command += ["--replace"] if settings.replace else []
    command += ["--family", settings.family] if settings.family is not None else []
    return shlex.join(command)
