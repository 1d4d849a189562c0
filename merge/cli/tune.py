"""`python -m merge tune`: tunes the tokens of adapters to the others that they are merged with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.program import as_called
from blocklora_jax.composing.check import check_adapters
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from merge.cli.describe import as_arguments
from merge.cli.new_adapters import new_paths, with_descriptions
from merge.cli.reading import AdapterReader
from merge.cli.shared_options import Files, Options, Overwrite, SkipUnusable, Variant, Verify, Weights, base_model_help
from merge.cli.sources import find_sources, inputs_of, load_sources, weights_of
from merge.methods.tuned_tokens import TunedTokensSettings, tune_tokens


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """Tune the tokens of adapters to each other, without pictures, so that a large merge keeps more of every concept.

    Give all files that will be merged. A new file is written for each, with the same weights and slots and another
    token. Merge the new files like the old ones: `python -m merge OUT/*.safetensors …`. Their merge can be undone like
    that of the old ones. The more concepts, the more there is to gain.
    """

    files: Files
    out: Path
    """The folder for the new adapters, NAME.safetensors each."""
    model: Annotated[str, base_model_help("that the adapters were trained on")] = "pocket"
    variant: Variant = None
    weights: Weights = ()
    steps: int = TunedTokensSettings.token_steps
    """Steps of Adam for each token."""
    name: tuple[str, ...] = ()
    """The name of each concept and of its new file. Default: those in the files."""
    allow_overlap: bool = False
    """Tune adapters that own the same weights (equal slots, or no blocks) instead of refusing them."""
    skip_unusable: SkipUnusable = False
    overwrite: Overwrite = False
    verify: Verify = True


def tune_files(args: Sequence[str] | None = None) -> int:
    """Run `tune`; gives the exit code."""
    options = read_options(TuneOptions, args, prog="python -m merge tune")
    skip = options.skip_unusable
    sources = find_sources(options.files, skip_unusable=skip) if options.files else []
    if len(sources) < 2:
        raise UserError("name two or more adapter files: a single adapter is not disturbed by others")
    reader = AdapterReader(model=options.model, variant=options.variant, verify=options.verify)
    sources, adapters = load_sources(sources, options.verify, skip_unusable=skip, reader=reader)
    adapters = with_descriptions(adapters, name=options.name)
    weights = weights_of(sources, options.weights)
    # Checked before the model is read, which takes longer.
    check_adapters(adapters, weights, allow_overlap=options.allow_overlap)
    paths = new_paths(options.out, adapters, sources)
    outputs = [Output(path, "adapter") for path in paths]
    plan_outputs(outputs, [*inputs_of(options.files, sources), options.model], overwrite=options.overwrite)
    # Imported here, because the model needs Flax.
    from blocklora_jax.checkpoints.checkpoint import CONFIGS
    from blocklora_jax.pipeline import StableDiffusion

    # NumPy arrays: merging them compiles nothing, and only the text encoders run.
    sd = StableDiffusion.from_pretrained(options.model, variant=options.variant, verify=options.verify, on_host=CONFIGS)
    tuned = tune_tokens(sd, adapters, weights, steps=options.steps, allow_overlap=options.allow_overlap)
    print("how far the merged layers are from each concept's own output (0: not at all), before and after:")
    width = max(len(adapter.name) for adapter in adapters)
    for adapter, before, after in zip(adapters, tuned.before, tuned.after, strict=True):
        change = "has no token, and stays as it is" if math.isnan(before) else f"{before:.3f}  {after:.3f}"
        print(f"  {adapter.name:<{width}}  {change}")
    for path, adapter in zip(paths, tuned.adapters, strict=True):
        adapter.save(path)
    print(f"wrote {len(paths)} files into {options.out}")
    files = as_arguments(options.out, paths, in_order=weights is not None)
    flags = " --allow-overlap" if options.allow_overlap else ""
    flags += "".join([" --weights", *(f" {weight:g}" for weight in weights)]) if weights else ""
    print(f"merge them together: {as_called('python -m merge')} {files}{flags} …")
    return 0
