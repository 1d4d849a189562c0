"""`python -m merge fit`: fits adapters that share weights jointly, so that they disturb each other least."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklora_jax.adapters.on_disk import arrays_on_disk
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.program import as_called
from blocklora_jax.composing.check import check_adapters
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.prompts.shares import Kind
from merge.cli.convolutions import with_convolutions, without_convolutions
from merge.cli.describe import as_arguments
from merge.cli.list_weights import with_own_weights
from merge.cli.new_adapters import new_paths, with_descriptions
from merge.cli.reading import DEFAULT_RANK, AdapterReader
from merge.cli.shared_options import (
    Convolutions,
    FamilyOfFiles,
    Files,
    MaxRank,
    Memory,
    Options,
    Overwrite,
    SkipUnusable,
    Variant,
    Verify,
    base_model_help,
)
from merge.cli.sources import are_large, find_sources, inputs_of, load_sources
from merge.methods.finished_groups import remove_finished
from merge.methods.joint_fit import fit_jointly

# In the folder of the new adapters: the layers that are fitted, until all are.
UNFINISHED = ".unfinished"


@dataclass(frozen=True, kw_only=True)
class FitOptions(Options):
    """Fit adapters jointly, without pictures and without training, so that their sum keeps every concept.

    A new adapter of the same rank is written for each. Merge all of them together: `python -m merge OUT/*.safetensors
    --allow-overlap …`. They have no blocks, and weights of a library are multiplied into them. For a merge that can be
    undone bit for bit, merge the original adapters.
    A fit that was interrupted goes on with the same command, after the last group of layers that was done.
    """

    files: Files
    out: Path
    """The folder for the new adapters, NAME.safetensors each."""
    model: Annotated[str, base_model_help("that the adapters were trained on")] = "pocket"
    variant: Variant = None
    trigger: tuple[str, ...] = ()
    """The words that call each concept and nothing else, such as "sks dog", one for each file. Default: those in the
    library or in the files."""
    kind: tuple[Kind, ...] = ()
    """The kind of each concept, which decides the trigger's place in prompts. Default: those in the files."""
    erase_weight: Annotated[float, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the error on ordinary prompts, relative to that on one concept's own prompts."""
    keep_strength: bool = False
    """Keep the whole strength of every concept. Without it, the fit of many makes each a little weaker."""
    name: tuple[str, ...] = ()
    """The name of each concept and of its new file. Default: those in the files."""
    attention: bool = False
    """Weight text positions by the U-Net's attention to them. A slightly better fit, but slower: the U-Net must run."""
    convolutions: Convolutions = "keep"
    max_rank: MaxRank = DEFAULT_RANK
    memory: Memory = None
    family: FamilyOfFiles = None
    skip_unusable: SkipUnusable = False
    overwrite: Overwrite = False
    verify: Verify = True


def fit_files(args: Sequence[str] | None = None) -> int:
    """Run `fit`; gives the exit code."""
    options = read_options(FitOptions, args, prog="python -m merge fit")
    # Imported here, because they need Flax.
    from blocklora_jax.pocket.prompt_words import words_for
    from blocklora_jax.probing.triggers import check_triggers

    skip = options.skip_unusable
    sources = find_sources(options.files, skip_unusable=skip, family=options.family) if options.files else []
    if len(sources) < 2:
        raise UserError("name two or more adapter files: a single adapter needs no fit")
    reader = AdapterReader(
        model=options.model, variant=options.variant, verify=options.verify, max_rank=options.max_rank
    )
    sources, adapters = load_sources(sources, options.verify, skip_unusable=skip, reader=reader)
    adapters = with_own_weights(
        sources, with_descriptions(adapters, name=options.name, trigger=options.trigger, kind=options.kind)
    )
    # Checked before the model is read, which takes longer.
    check_adapters(adapters, None, allow_overlap=True)
    check_triggers(adapters, words_for(options.model))
    paths = new_paths(options.out, adapters, sources)
    planned = [Output(path, "adapter") for path in paths]
    plan_outputs(planned, [*inputs_of(options.files, sources), options.model], overwrite=options.overwrite)
    # Imported here, because the model needs Flax.
    from blocklora_jax.pipeline import StableDiffusion

    sd = StableDiffusion.from_pretrained(
        options.model, variant=options.variant, verify=options.verify, on_host=("vae",)
    )
    linear, wide = (adapters, []) if options.convolutions == "refuse" else without_convolutions(adapters)
    if count := sum(map(bool, wide)):
        done = "are kept as they are, and not fitted" if options.convolutions == "keep" else "are dropped"
        print(f"the 3x3 convolutions of {count} LoRAs {done}")
    fitted = fit_jointly(
        sd,
        linear,
        erase_weight=options.erase_weight,
        keep_strength=options.keep_strength,
        attention=options.attention,
        memory=options.memory,
        keep=arrays_on_disk if are_large(sources) else lambda pairs: pairs,
        unfinished=options.out / UNFINISHED,
    )
    if options.convolutions == "keep":
        scales = [adapter.info.scale for adapter in adapters]
        fitted = [with_convolutions(*each) for each in zip(fitted, wide, scales, strict=True)]
    for path, adapter in zip(paths, fitted, strict=True):
        adapter.save(path)
        print(f"wrote {path}")
    remove_finished(options.out / UNFINISHED)
    files = as_arguments(options.out, paths)
    print(f"merge them together: {as_called('python -m merge')} {files} --allow-overlap …")
    return 0
