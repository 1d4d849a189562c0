"""`python -m merge FILES …`: merges adapters by one of the methods, for pictures, for a model folder, or for both."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.block_weights import factors_of, weigh_all, weights_of_each
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.command import list_commands
from blocklora_jax.command_line.commands import MERGING
from blocklora_jax.command_line.options import read_options
from blocklora_jax.composing.check import check_adapters
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.layouts.textual_inversion import embedding_path
from merge.cli.describe import overlap_report
from merge.cli.method_flags import check_sampler, method_of, options_of, refuse_others_flags, with_full_name
from merge.cli.options import MergeOptions, check_picture_options
from merge.cli.reading import AdapterReader
from merge.cli.sources import Source, find_sources, load_each, load_sources, weights_of
from merge.manifest import SUM, MergeManifest, pairs_digest, without_values
from merge.methods.method import Merged
from merge.methods.table import METHODS

if TYPE_CHECKING:
    from blocklora_jax.pipeline import MergedModel, StableDiffusion


def merge_command(args: Sequence[str] | None = None) -> int:
    """Read the options and merge. Gives the exit code. Without arguments it prints the help."""
    args = list(sys.argv[1:] if args is None else args) or ["--help"]
    method = method_of(args)
    args = with_full_name(args, method)
    check_sampler(args)
    refuse_others_flags(args, method)
    merge_files(read_options(options_of(method), args, description=_description(), prog="python -m merge"))
    return 0


def merge_files(options: MergeOptions) -> None:
    """Merge the files, then make the requested pictures and write the requested folder."""
    if not options.prompt and options.save is None:
        raise UserError("there is nothing to do: give --prompt '…' for pictures, or --save FOLDER for a merged model")
    check_picture_options(options)
    skip = options.skip_unusable
    sources = find_sources(options.files, skip_unusable=skip, family=options.family)
    if options.stream:
        _merge_streamed(options, sources)
        return
    reader = AdapterReader(
        model=options.model, model_config=options.model_config, variant=options.variant, verify=options.verify
    )
    sources, adapters = load_sources(sources, options.verify, skip_unusable=skip, reader=reader)
    files = tuple(source.path for source in sources)
    options = replace(options, files=files, weights=weights_of(sources, options.weights) or ())
    adapters = weigh_all(adapters, options.block_weights)
    if options.weight_by_step:
        from merge.cli.weight_by_step import read_factors  # it needs Flax

        read_factors(options.weight_by_step, [adapter.name for adapter in adapters])
    if options.compare:
        from merge.cli.picture_cells import check_comparison  # it needs Flax

        check_comparison(options, adapters)
    planned = [Output(options.out, "picture")] if options.prompt else []
    planned += save_outputs(options.save, adapters) if options.save is not None else []
    plan_outputs(
        planned,
        [*options.files, options.model, options.model_config, options.image, options.mask],
        overwrite=options.overwrite,
    )
    settings = options.method_settings
    # Checked before the model is read, which takes longer.
    check_adapters(adapters, options.weights or None, allow_overlap=settings.shares_weights)
    if METHODS[options.method].sums and settings.shares_weights:
        print("".join(f"{line}\n" for line in overlap_report(adapters)), end="")
    sd = _load_model(options)
    merged = METHODS[options.method].merge(
        sd, adapters, options.weights or None, settings, check_base=options.check_base
    )
    model = sd.with_params(merged.params, merged.adapters, options.weights or None)
    if options.prompt:
        from merge.cli.pictures import write_pictures  # it needs Flax

        write_pictures(sd, adapters, model, options)
    if options.save is not None:
        save_merged(model, merged, options)


def _merge_streamed(options: MergeOptions, sources: Sequence[Source]) -> None:
    if options.save is None or options.save.suffix == ".safetensors" or options.prompt or options.method != SUM:
        raise UserError("--stream writes a folder by the sum: give --save FOLDER, no --prompt and no other --method")
    if options.block_weights:
        raise UserError("--stream does not weigh blocks: leave out --stream or --block-weights")
    if options.model_config is not None or str(options.model).endswith(".safetensors"):
        raise UserError("--stream reads a Diffusers folder, not a single file: leave it out, or convert the model")
    inputs = [*(source.path for source in sources), options.model]
    plan_outputs([Output(options.save, "model folder", "--save")], inputs, overwrite=options.overwrite)
    # Imported here, because a model's configs need Flax.
    from merge.stream import Outline, check_streamable, merge_streamed, read_outline

    for source in sources:  # None of them is left out: the folder would not be that of a merge in memory.
        check_streamable(source.path)
    outlines: dict[Path, Outline] = {}

    def reader(path: Path) -> Adapter:
        outlines[path] = read_outline(path, options.verify)
        return outlines[path].adapter

    loaded = list(load_each(sources, skip_unusable=options.skip_unusable, reader=reader))
    if not loaded:
        raise UserError("none of the files can be used")
    merge_streamed(
        options.model, [outlines[source.path]._replace(adapter=adapter) for source, adapter in loaded], options.save,
        weights_of([source for source, _ in loaded], options.weights), dtype=options.dtype,
        variant=options.variant, allow_overlap=options.method_settings.shares_weights, check_base=options.check_base,
        verify=options.verify, overwrite=options.overwrite,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )  # fmt: skip
    print(f"wrote {options.save}")


def save_outputs(path: Path, adapters: Sequence[Adapter]) -> list[Output]:
    """All files that `--save` writes: a folder, or a single file with the tokens' files beside it."""
    if path.suffix != ".safetensors":
        return [Output(path, "model folder", "--save")]
    tokens = [Output(embedding_path(path, token), "tokens", "--save") for token in token_counts(adapters)]
    return [Output(path, "model file", "--save"), *tokens]


def _description() -> str:
    methods = "\n".join(f"  {name:<17}{method.help}" for name, method in METHODS.items())
    others = list_commands(command for command in MERGING if command.name != "merge")
    return (
        f"{MergeOptions.__doc__}\n\nMethods (--method NAME):\n{methods}\n\n"
        f"Other commands, each with its own --help:\n{others}"
    )


def _load_model(options: MergeOptions) -> StableDiffusion:
    # Imported here, because the model needs Flax, which merging alone does not need.
    from blocklora_jax.checkpoints.checkpoint import CONFIGS
    from blocklora_jax.pipeline import StableDiffusion

    # NumPy arrays, because merging them compiles nothing.
    return StableDiffusion.from_pretrained(
        options.model, config=options.model_config, variant=options.variant, verify=options.verify, on_host=CONFIGS
    )


def save_merged(model: MergedModel, merged: Merged, options: MergeOptions) -> None:
    """Write the merged model where `--save` says, as a folder with a manifest or as a single file."""
    assert options.save is not None
    checkpoint = model.base.checkpoint
    sums = METHODS[options.method].sums
    digests = tuple(map(pairs_digest, merged.adapters)) if sums else ()
    block_weights = weights_of_each(options.block_weights, len(merged.adapters))
    manifest = MergeManifest(
        base_name=checkpoint.name,
        base_digest=params_digest(checkpoint.params),
        dtype=options.dtype,
        adapters=tuple(without_values(adapter) for adapter in merged.adapters),
        weights=model.weights,
        method=SUM if sums else options.method,
        settings=asdict(options.method_settings),
        digests=digests,
        block_weights=tuple(
            factors_of(adapter, weights) if digest else {}
            for adapter, weights, digest in zip(merged.adapters, block_weights, digests, strict=bool(digests))
        ),
    )
    # A single file cannot hold the manifest.
    written = model.save(options.save, dtype=options.dtype, merge=manifest.to_json(), overwrite=options.overwrite)
    for path in written:
        print(f"wrote {path}")
