"""`python -m merge check`: says whether adapters can be merged, and how much they would disturb each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from tqdm import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.finite import nonfinite_parts
from blocklora_jax.command_line.options import flag_of, read_options
from blocklora_jax.command_line.program import as_called
from blocklora_jax.composing.check import adapter_problems, misfit_problems, overlap_problems, params_problems
from blocklora_jax.composing.likeness import compare
from blocklora_jax.errors import UserError
from blocklora_jax.io.atomic import write_atomic
from blocklora_jax.io.heat_map import heat_map
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.io.picture_grid import png_bytes
from merge.cli.library_check import advice, finite_directions, likeness_map, ranked
from merge.cli.list_weights import weighed
from merge.cli.reading import DEFAULT_RANK, AdapterReader
from merge.cli.shared_options import (
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
from merge.cli.sources import Source, name_left_out, split_sources
from merge.manifest import without_values

# Of more adapters, no table of all pairs is printed.
MANY = 12
_OF_CROSSTALK = ("prompts", "steps", "seed")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """List everything that prevents adapters from being merged, and measure their crosstalk. Nothing is merged.

    Of more than a dozen adapters the weights are compared instead, without running a model: a ranked list says which
    disturb the others most and which are nearly the same, and a map shows which are alike. There the overlap of LoRAs
    without blocks is no problem.
    Crosstalk is the output of other concepts' adapters on a concept's prompts, divided by the output of its own
    adapter. At 0 they do nothing there; at 1 they do as much as the concept itself. Each adapter counts with its weight
    in the library.
    Exit code 0: they can be merged; 1: they cannot; 2: the command itself was wrong.
    """

    files: Files
    model: Annotated[str, base_model_help("that the adapters were trained on")] = "pocket"
    variant: Variant = None
    out: Path = Path("crosstalk.png")
    """The file for the picture of the crosstalk matrix, or for the map."""
    crosstalk: bool = True
    """Measure crosstalk; --no-crosstalk only checks the files and reads no model."""
    alike: bool | None = None
    """Compare weights and draw the map: True or False. Default: if there are more than 12 adapters."""
    check_base: bool = True
    """Report a model that the adapters were not trained on; --no-check-base is for a copy, such as in bfloat16."""
    prompts: tuple[str, ...] = ()
    """Prompts to measure on, such as "a photo of {}", where {} becomes each concept's trigger. Default: eight prompts
    that fit the concept's kind."""
    steps: int = 4
    """Sampling steps of the pictures on which layers that read pictures are measured."""
    seed: int = 0
    """Seed of these pictures."""
    max_rank: MaxRank = DEFAULT_RANK
    memory: Memory = None
    family: FamilyOfFiles = None
    skip_unusable: SkipUnusable = False
    overwrite: Overwrite = False
    verify: Verify = True


def check_files(args: Sequence[str] | None = None) -> int:
    """Run `check`; gives the exit code."""
    options = read_options(CheckOptions, args, prog="python -m merge check")
    if not options.files:
        raise UserError("name at least one adapter file")
    if wrong := [prompt for prompt in options.prompts if "{}" not in prompt]:
        raise UserError(f"the prompt {wrong[0]!r} has no {{}} for the concept's trigger")
    sources, reasons = split_sources(options.files, options.family)
    alike = len(sources) > MANY if options.alike is None else options.alike
    if alike:
        _refuse_options_of_crosstalk(options)
    if alike or options.crosstalk:
        inputs = [*(source.path for source in sources), options.model]
        plan_outputs([Output(options.out, "picture")], inputs, overwrite=options.overwrite)
    return _compare(options, sources, reasons) if alike else _check(options, sources, reasons)


def _check(options: CheckOptions, sources: Sequence[Source], reasons: dict[str, str]) -> int:
    """Check a few adapters in pairs, and measure their crosstalk; gives the exit code."""
    loaded = list(_load_each(sources, options, reasons))
    adapters = [adapter for _, adapter in loaded]
    problems = [*adapter_problems(adapters, None, allow_overlap=False), *misfit_problems(adapters)]
    weights = [source.weight for source, _ in loaded]
    problems += _measure(options, adapters, weights) if options.crosstalk and adapters else []
    return _end(options, reasons, problems, len(adapters))


def _compare(options: CheckOptions, sources: Sequence[Source], reasons: dict[str, str]) -> int:
    """Compare the weights of many adapters, of which one is in memory at a time; gives the exit code."""
    names, changes, outlines = [], [], []
    for source, adapter in _load_each(sources, options, reasons):
        directions = finite_directions(weighed(adapter, source.weight))
        if directions is None:
            reasons[adapter.name] = f"{adapter.name} has changes that are too large for any model: leave it out"
            continue
        outlines.append(replace(adapter, lora=without_values(adapter).lora))
        # With the weight 0 it does nothing, and is like no other.
        if source.weight:
            names.append(adapter.name)
            changes.append(directions)
    if len(changes) > 1:
        likeness = compare(names, changes)
        print("\n".join([*ranked(likeness), "", *advice(likeness)]))
        write_atomic(options.out, png_bytes(likeness_map(likeness)))
        print(f"wrote {options.out}")
    # That LoRAs without blocks overlap is what the list and the map are about.
    problems = adapter_problems(outlines, None, allow_overlap=True)
    problems += overlap_problems([adapter for adapter in outlines if adapter.info.partition is not None])
    problems += [*misfit_problems(outlines), *_base_problems(options, outlines)]
    return _end(options, reasons, problems, len(outlines))


def _refuse_options_of_crosstalk(options: CheckOptions) -> None:
    defaults = {field.name: field.default for field in fields(CheckOptions)}
    given = [flag_of(options, name) for name in _OF_CROSSTALK if getattr(options, name) != defaults[name]]
    if given:
        raise UserError(
            f"{', '.join(given)} is for measuring crosstalk, and here the weights are compared: leave it out, or give "
            "--alike False"
        )


def _base_problems(options: CheckOptions, adapters: Sequence[Adapter]) -> list[str]:
    """The problems with merging into the model, which is read only if it is known on which one they were trained."""
    if not options.crosstalk or not options.check_base or len({a.info.base_digest for a in adapters} - {""}) != 1:
        return []
    # Imported here, because a model's configs need Flax.
    from blocklora_jax.checkpoints.load import load_checkpoint

    try:
        params = load_checkpoint(options.model, variant=options.variant, verify=options.verify).params
    except UserError as error:
        return [f"whether the adapters were trained on {options.model} was not checked: {error}"]
    return params_problems(params, adapters, check_base=True)


def _load_each(
    sources: Sequence[Source], options: CheckOptions, reasons: dict[str, str]
) -> Iterator[tuple[Source, Adapter]]:
    """The adapters that can be read. A reason is added for each of the others."""
    reader = AdapterReader(
        model=options.model, variant=options.variant, verify=options.verify, max_rank=options.max_rank
    )
    for source in tqdm(sources, desc="files", unit="file", dynamic_ncols=True, disable=None):
        try:
            yield source, source.read(reader)
        except UserError as error:
            reasons[source.name] = str(error)


def _end(options: CheckOptions, reasons: Mapping[str, str], problems: Sequence[str], count: int) -> int:
    """Print all problems, those of files first; gives the exit code."""
    if options.skip_unusable:
        name_left_out(reasons)
    else:
        files = [reason if file in reason else f"{file}: {reason}" for file, reason in reasons.items()]
        problems = [*files, *problems]
    for problem in problems:
        print(f"problem: {as_called(problem)}")
    total = count + len(reasons)
    print(f"{count} of {total} adapters read; {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}")
    return 1 if problems else 0


def _measure(options: CheckOptions, adapters: Sequence[Adapter], weights: Sequence[float]) -> list[str]:
    """Print and draw the crosstalk of the adapters that fit the model. Gives the problems of all adapters with it."""
    # Imported here, because the model needs Flax.
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.crosstalk import ALL, measure_crosstalk

    try:
        sd = StableDiffusion.from_pretrained(
            options.model, variant=options.variant, verify=options.verify, on_host=("vae",)
        )
    except UserError as error:
        return [f"crosstalk was not measured: {error}"]
    problems = {
        i: params_problems(sd.checkpoint.params, [a], check_base=options.check_base) for i, a in enumerate(adapters)
    }
    listed = [problem for group in problems.values() for problem in group]
    fitting = [
        weighed(a, weight)
        for a, weight in zip(adapters, weights, strict=True)
        if weight and not params_problems(sd.checkpoint.params, [a], check_base=False) and not nonfinite_parts(a)
    ]
    if len(fitting) < 2:
        return listed
    try:
        measured = measure_crosstalk(
            sd, fitting, options.prompts or None, steps=options.steps, seed=options.seed, memory=options.memory
        )
    except UserError as error:
        return [*listed, f"crosstalk was not measured: {error}"]
    names = [adapter.name for adapter in fitting]
    for kind, (pairs, others) in measured.items():
        print("\n".join(table(kind, names, pairs, others)) + "\n")
    pairs, others = measured[ALL] if ALL in measured else next(iter(measured.values()))
    picture = heat_map(
        np.c_[pairs, others], names, [*names, "all others"], "crosstalk: output of … on the prompts of …"
    )
    write_atomic(options.out, png_bytes(picture))
    print(f"wrote {options.out}")
    return [*listed, *unmeasured(names, pairs, others)]


def unmeasured(names: Sequence[str], pairs: np.ndarray, others: np.ndarray) -> list[str]:
    """A problem for each concept whose crosstalk is not finite. pairs, others: as in `probing.crosstalk.Crosstalk`."""
    finite = np.isfinite(np.c_[pairs, others]).all(axis=1)
    return [
        f"the crosstalk on the prompts of {name!r} is not finite: its adapter has no output there, or too much; do the "
        "prompts call the concept, and was the adapter trained?"
        for name, known in zip(names, finite, strict=True)
        if not known
    ]


def table(kind: str, names: Sequence[str], pairs: np.ndarray, others: np.ndarray) -> list[str]:
    """The matrix as text. A row stands for the prompts of a concept, a column for the output of an adapter."""
    width = max(7, *(len(name) for name in names)) + 2
    left = max(len(kind), *(len(name) for name in names)) + 2
    lines = [kind.ljust(left) + "".join(name.rjust(width) for name in names) + "all others".rjust(12)]
    for name, row, rest in zip(names, pairs, others, strict=True):
        lines.append(name.ljust(left) + "".join(f"{value:{width}.3f}" for value in row) + f"{rest:12.3f}")
    return lines
