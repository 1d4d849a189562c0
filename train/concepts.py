"""Teach a model many concepts in one program: `python -m train.concepts --concepts FILE_OR_DIR --out runs/fifteen`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.storage.address import is_remote, url_of
from blocklora_jax.storage.copies import errors_name_originals
from train.concept.staging import stage_inputs, staged_output, staged_path
from train.concept_entries import read_concepts
from train.concepts_options import ConceptsOptions
from train.shares.share import Share


@errors_name_originals()
def main(args: Sequence[str] | None = None) -> None:
    """The command line."""
    # With return_unknown_args, tyro returns a pair: the options, and the arguments that it does not know.
    parsed: Any = read_options(ConceptsOptions, args, prog="python -m train.concepts", return_unknown_args=True)
    options, rest = parsed
    # The run folder is another one if --out is in an object store.
    local = replace(options, out=staged_path(options.out))
    configs = read_concepts(local, rest)
    # JAX and Flax load here, so that --help and wrong options answer at once.
    if options.shard is not None:
        from train.shares.command import train_and_report_share
        from train.shares.run import ShareSettings

        share = ShareSettings(
            share=Share.parse(options.shard), groups=local.groups, at_once=options.at_once, lease=options.lease,
            wait=options.wait, remote=url_of(options.out) if is_remote(options.out) else None,
        )  # fmt: skip
        train_and_report_share(configs, share)
        return
    from train.concept.groups import train_and_report

    def shown(path: Path) -> str:
        inner = path.relative_to(local.out).as_posix()
        return f"{url_of(options.out)}/{inner}" if is_remote(options.out) else str(path)

    with staged_output(options.out):
        train_and_report([stage_inputs(config) for config in configs], local.groups, options.at_once, shown)


if __name__ == "__main__":
    run(main)
