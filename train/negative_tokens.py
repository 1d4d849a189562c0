"""Gather the trained tokens of adapters in one file, for `train.concept --negative-tokens`.

    python -m train.negative_tokens ADAPTER_OR_FOLDER ... --out negative_tokens.safetensors

The tokens of other people's concepts are not known when a concept is trained. But the trained tokens of any concepts on
the same base show how training changes tokens. Most negative tokens are drawn to resemble the tokens in this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklora_jax.command_line.bucket_files import files_in_buckets
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs


@dataclass(frozen=True, kw_only=True)
class NegativeTokensOptions:
    """Gather the tokens of adapters in one file for `--negative-tokens`. The file holds no pictures and no weights."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Adapters, or folders of them, all trained on one base."""
    out: Path
    """The file to write."""
    model: str = "pocket"
    """The base of the adapters: "pocket", a Diffusers folder, a single file, or a hub id."""
    overwrite: bool = False
    """Replace a file that is there already."""

    def __post_init__(self) -> None:
        check_options(self)


@files_in_buckets()
def main() -> None:
    """The command line."""
    options = read_options(NegativeTokensOptions, description=__doc__, prog="python -m train.negative_tokens")
    if not options.files:
        raise UserError("name at least one adapter file, or a folder of them")
    plan_outputs([Output(options.out, "strangers")], [*options.files, options.model], overwrite=options.overwrite)
    # JAX and Flax load here, so that --help and wrong options answer at once.
    from train.concept.known_tokens import write_known_tokens

    print(write_known_tokens(options.files, options.model, options.out))


if __name__ == "__main__":
    run(main)
