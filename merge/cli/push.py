"""`python -m merge push`: pushes an adapter to the Hugging Face hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from blocklora_jax.adapters.sharing.command import last_preview, push_and_report
from blocklora_jax.adapters.sharing.options import License, Private, Replace
from blocklora_jax.adapters.sharing.push import PushSettings
from blocklora_jax.command_line.options import read_options
from blocklora_jax.layouts.families.table import FamilyName as Family
from merge.cli.files import load_adapter
from merge.cli.shared_options import Options, Verify


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """Push an adapter to the Hugging Face hub, with a model card and the files for diffusers, ComfyUI and A1111.

    Log in first with `hf auth login`, or set HF_TOKEN. Others load it as hub:OWNER/NAME.
    """

    file: Positional[Path]
    """The adapter: a file, or the folder of a run."""
    repository: Positional[str]
    """OWNER/NAME. It is made if it is missing."""
    private: Private = False
    license: License = None
    replace: Replace = False
    pictures: tuple[Path, ...] | None = None
    """Pictures for the model card. Default: the last preview of the run, if the file is in a run's folder."""
    prompts: tuple[str, ...] | None = None
    """Prompts to try on the page. Default: one that calls the concept."""
    base_model: str | None = None
    """Hub id of the base model for the card, if the adapter was trained from a folder."""
    family: Family | None = None
    """The family of the base model, if the file does not show it (LoRAs of other programs with few layers)."""
    message: str | None = None
    """Message of the commit."""
    verify: Verify = True


def push_file(args: Sequence[str] | None = None) -> int:
    """Run `push`; gives the exit code."""
    options = read_options(PushOptions, args, prog="python -m merge push")
    adapter, path = load_adapter(options.file, options.verify)
    pictures = last_preview(path) if options.pictures is None else options.pictures
    settings = PushSettings(
        private=options.private, license=options.license, replace=options.replace, pictures=tuple(pictures),
        prompts=options.prompts, base_model=options.base_model, family=options.family, message=options.message,
    )  # fmt: skip
    push_and_report(adapter, options.repository, settings)
    return 0
