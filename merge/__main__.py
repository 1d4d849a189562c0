"""Merge, describe and export adapters: `python -m merge --help`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.layouts.textual_inversion import embedding_path
from merge.check import check_adapters
from merge.cli import registry
from merge.cli.check import check_files
from merge.cli.convert import convert_file
from merge.cli.describe import describe, overlap_report
from merge.cli.fit import fit_files
from merge.cli.options import ExportOptions, InfoOptions, MergeOptions
from merge.cli.plan import PlanOptions, print_plan
from merge.cli.remove import remove_files, replace_files
from merge.cli.verbs import current_name, is_verb, unknown_verb
from merge.compose import Params, compose
from merge.export.lora_file import export, export_outputs, read_export_header
from merge.manifest import MergeRecord, outline


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that the first word names; a merge if it is none of them. Exits with a code that is not 0 if it says so."""
    args = list(sys.argv[1:] if args is None else args)
    command = current_name(args[0]) if args else ""
    if command in COMMANDS:
        if code := COMMANDS[command](args[1:]):
            raise SystemExit(code)
    elif command == "info":
        print_info(read_options(InfoOptions, args[1:], prog="python -m merge info"))
    elif command == "export":
        export_files(read_options(ExportOptions, args[1:], prog="python -m merge export"))
    elif args and is_verb(command):
        raise UserError(unknown_verb(command, ["info", "export", *COMMANDS]))
    else:
        merge_files(read_options(MergeOptions, args or ["--help"], prog="python -m merge"))


def print_info(options: InfoOptions) -> None:
    """Print what is in each file."""
    for path in _required(options.files):
        size = f"{path.stat().st_size / 1e6:.2f} MB" if path.is_file() else ""
        description = describe(Adapter.load(path, options.verify))
        print(f"{'file:':<10}{path}, {size}\n{description}\n")


def export_files(options: ExportOptions) -> None:
    """Write the LoRA file and the token files."""
    adapters = [Adapter.load(path, options.verify) for path in _required(options.files)]
    planned = export_outputs(options.out, adapters, options.card)
    plan_outputs(planned, options.files, overwrite=options.overwrite)
    _print_overlaps(adapters, options.allow_overlap)
    written = export(
        adapters,
        options.out,
        options.layout,
        options.weights or None,
        options.dtype,
        allow_overlap=options.allow_overlap,
        max_rank=options.max_rank,
        card=options.card,
        overwrite=options.overwrite,
        family=options.family,
    )
    if options.max_rank is not None:
        error = read_export_header(options.out)["relative_error"]
        print(f"ranks cut to {options.max_rank}: {error:.3%} of the change is left out")
    for path in written:
        print(f"wrote {path}")


def merge_files(options: MergeOptions) -> None:
    """Merge the files, then make the pictures and write the folder that were asked for."""
    if not options.prompt and options.save is None:
        raise UserError("nothing to make: give --prompt '…' for pictures, or --save FOLDER for a merged model")
    adapters = [Adapter.load(path, options.verify) for path in _required(options.files)]
    planned = [Output(options.out, "picture")] if options.prompt else []
    planned += save_outputs(options.save, adapters) if options.save is not None else []
    plan_outputs(planned, [*options.files, options.model, options.model_config], overwrite=options.overwrite)
    # Before the model is read, which takes longer.
    check_adapters(adapters, options.weights or None, allow_overlap=options.allow_overlap)
    _print_overlaps(adapters, options.allow_overlap)
    # Imported late: the model brings Flax, which merging as such does not need.
    from blocklora_jax.pipeline import StableDiffusion

    sd = StableDiffusion.from_pretrained(
        options.model, config=options.model_config, variant=options.variant, verify=options.verify
    )
    params = compose(
        # NumPy: merging there compiles nothing.
        sd.checkpoint.params,
        adapters,
        options.weights or None,
        allow_overlap=options.allow_overlap,
        check_base=options.check_base,
    )
    if options.prompt:
        _write_pictures(sd, params, adapters, options)
    if options.save is not None:
        written = sd.save(
            options.save,
            params=params,
            adapters=adapters,
            dtype=options.dtype,
            # A single file has no place for it.
            merge=_record(sd.checkpoint, adapters, options).to_json(),
            overwrite=options.overwrite,
        )
        for path in written:
            print(f"wrote {path}")


def save_outputs(path: Path, adapters: Sequence[Adapter]) -> list[Output]:
    """All files that `--save` writes: a folder, or a single file with the tokens' files beside it."""
    if path.suffix != ".safetensors":
        return [Output(path, "model folder", "--save")]
    tokens = [Output(embedding_path(path, token), "tokens", "--save") for token in token_counts(adapters)]
    return [Output(path, "model file", "--save"), *tokens]


def _record(checkpoint, adapters: Sequence[Adapter], options: MergeOptions) -> MergeRecord:
    return MergeRecord(
        base_name=checkpoint.name,
        base_digest=params_digest(checkpoint.params),
        dtype=options.dtype,
        adapters=tuple(outline(adapter) for adapter in adapters),
        weights=options.weights or (1.0,) * len(adapters),
    )


def _write_pictures(sd, params: Params, adapters: Sequence[Adapter], options: MergeOptions) -> None:
    from blocklora_jax.diffusion.regions import side_by_side
    from blocklora_jax.io.picture_grid import picture_grid, png_bytes

    images = sd.generate(
        list(options.prompt),
        params=params,
        adapters=adapters,
        # SDXL's own empty prompt is not the text "".
        negative_prompts=[options.negative_prompt] if options.negative_prompt else None,
        seed=options.seed,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        regions=[side_by_side(prompt, adapters) for prompt in options.prompt] if options.side_by_side else None,
    )
    # Small models' pictures are enlarged, so that they can be looked at.
    grid = picture_grid(images, options.prompt, scale=max(1, 256 // images.shape[1]))
    write_atomic(options.out, png_bytes(grid))
    print(f"wrote {options.out}")


def _required(files: Sequence[Path]) -> Sequence[Path]:
    if not files:
        raise UserError("name at least one adapter file")
    return files


def _print_overlaps(adapters: Sequence[Adapter], allowed: bool) -> None:
    for line in overlap_report(adapters) if allowed else []:
        print(line)


def _plan(args: Sequence[str]) -> int:
    return print_plan(read_options(PlanOptions, args, prog="python -m merge plan"))


# Each takes the words after its name and gives the exit code.
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "check": check_files,
    "fit": fit_files,
    "convert": convert_file,
    "plan": _plan,
    "registry": registry.main,
    "remove": remove_files,
    "replace": replace_files,
}


if __name__ == "__main__":
    run(main)
