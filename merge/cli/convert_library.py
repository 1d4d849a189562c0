"""`python -m merge convert FOLDER`: converts every LoRA of a library into blocks, and hands out the slots."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from tqdm import tqdm

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.file import read_header
from blocklora_jax.checks.names import plain_name
from blocklora_jax.command_line.program import as_called
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.io.printing import one_line
from blocklora_jax.library.library import name_reasons
from blocklora_jax.library.unique_names import unique_names
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.registry.claims import Entry, Registry
from blocklora_jax.registry.store import create_registry, is_url, read_registry, registry_file, update_registry
from blocklora_jax.storage.address import is_remote
from merge.cli.conversion_record import changes_since, refuse_changed, with_record
from merge.cli.convert_options import ConvertOptions, prompt_words
from merge.cli.converter import Converter, reader_of
from merge.cli.convolutions import split_convolutions
from merge.cli.list_weights import with_own_weights
from merge.cli.plan import NARROW, cut_sizes
from merge.cli.sources import Source, described, find_sources, inputs_of, load_each

# Options that are for one file.
_OF_ONE_FILE = ("slot", "trigger", "class_noun", "kind", "name")


def convert_library(options: ConvertOptions) -> int:
    """Convert every LoRA of the folder or library `options.file`; gives the exit code."""
    _refuse_options_of_one_file(options)
    sources = find_sources([options.file], skip_unusable=options.skip_unusable, family=options.family)
    names = _names(sources)
    sources, narrowest = _with_triggers(sources, options)
    # The partition of a new registry depends on the basis of the model, which takes seconds to read.
    converter = None if _has_registry(options) else Converter.load(options)
    registry = _claim(options, [names[source.path] for source in sources], narrowest, converter)
    todo = _todo(options, registry, sources, names)
    planned = [Output(_out(options, names[source.path]), "adapter") for source in todo]
    plan_outputs(planned, [*inputs_of([options.file], sources), options.model], overwrite=options.overwrite)
    converter = converter or Converter.load(options, registry.partition)
    if kept := [_out(options, names[source.path]) for source in sources if source not in todo]:
        _check_base(kept, converter.digest)
        print(f"{len(kept)} of {len(sources)} are converted already, and are kept")
    failed = _convert(converter, registry, todo, names)
    print(f"converted {len(todo) - len(failed)} LoRAs into {options.out}; the slots are in {_place(options)}")
    if failed and (len(failed) == len(todo) or not options.skip_unusable):
        raise UserError(
            f"{len(failed)} LoRAs cannot be converted: {name_reasons(failed)}. --skip-unusable goes on without them"
        )
    return 0


def _convert(
    converter: Converter, registry: Registry, todo: Sequence[Source], names: dict[Path, str]
) -> dict[str, str]:
    """Convert and save one LoRA after the other. Gives the reason for each that cannot be converted."""
    options, failed = converter.options, {}
    reader = reader_of(options, converter)
    for source in tqdm(todo, desc="conversions", unit="file", dynamic_ncols=True, disable=None):
        name = names[source.path]
        try:
            lora = described(reader(source.path), source.entry)
            [adapter] = with_own_weights([source], [lora])
            if adapter.info.partition is not None:
                raise UserError("it has blocks already, and needs no conversion")
            # Its token in a basis is that of the claim.
            adapter = replace(adapter, info=replace(adapter.info, name=name))
            slots = registry.find(concept_token(name)).slots
            fitted, fits = converter.convert(adapter, source.path, registry.partition, slots)
        except UserError as error:
            failed[str(source.path)] = str(error)
            print(f"left out: {one_line(error)}", file=sys.stderr)
            continue
        with_record(fitted, options, source, lora).save(_out(options, name))
        error, leak = (max(getattr(fit, field) for fit in fits.values()) for field in ("error", "leak"))
        shown = ", ".join(map(str, slots))
        tqdm.write(f"{name}: slot {shown}, fit error {error:.0%}, leakage {leak:.0%}", file=sys.stdout)
    return failed


def _refuse_options_of_one_file(options: ConvertOptions) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _OF_ONE_FILE if getattr(options, name) is not None]
    if given:
        raise UserError(
            f"{', '.join(given)} is for one file, and {options.file} has many: write it into the library.yaml that "
            "`python -m merge library scan` makes"
        )


def _names(sources: Sequence[Source]) -> dict[Path, str]:
    """The name of each concept, by path. Raises UserError if two of a library have the same name."""
    wanted = {str(source.path): source.entry.name if source.entry else source.path.stem for source in sources}
    names = {Path(path): plain_name(name, f"{path}: the concept's name") for path, name in wanted.items()}
    if unique_names(wanted) != wanted:
        wrong = sorted({name for path, name in wanted.items() if unique_names(wanted)[path] != name})
        raise UserError(
            f"names of concepts must be lower-case letters, digits, '-' and '_', and each occur once, because they "
            f"become tokens: {', '.join(map(repr, wrong))}: change `name:` in the library.yaml"
        )
    return names


def _with_triggers(sources: Sequence[Source], options: ConvertOptions) -> tuple[list[Source], int]:
    """The files that can be read, and the features that blocks are cut from in the narrowest of their layers.

    Raises: UserError that names all whose trigger is missing or cannot be used.
    """
    from blocklora_jax.probing.triggers import check_triggers

    # Without their arrays, of which 200 LoRAs may have gigabytes.
    bare, kept, narrowest, reader = [], [], 1 << 20, reader_of(options)
    for source, adapter in load_each(sources, options.verify, skip_unusable=options.skip_unusable, reader=reader):
        bare.append(Adapter(lora={}, tokens=dict.fromkeys(adapter.tokens), info=adapter.info))
        kept.append(source)
        shapes = [shape for layers in split_convolutions(adapter)[0].shapes().values() for shape in layers.values()]
        narrowest = min([narrowest, *(min(cut_sizes(shape, options.axis)) for shape in shapes)])
    check_triggers(bare, prompt_words(options))
    return kept, narrowest


def _place(options: ConvertOptions) -> str:
    return options.registry or str(options.out / "registry.json")


def _has_registry(options: ConvertOptions) -> bool:
    place = _place(options)
    return is_url(place) or is_remote(place) or registry_file(place).exists()


def _claim(options: ConvertOptions, names: Sequence[str], narrowest: int, converter: Converter | None) -> Registry:
    """The registry, in which every name has a claim. A registry at a URL must have them all already."""
    place = _place(options)
    if is_url(place):
        return read_registry(place)
    if converter is not None:
        partition = converter.partition(len(names))
        if not partition.basis:
            _check_width(partition.num_blocks, narrowest)
        create_registry(place, Registry(partition=partition, codewords=converter.codewords(partition)))
    new = set(names) - {entry.name for entry in read_registry(place).entries}
    if not new:
        return read_registry(place)

    def claim(registry: Registry) -> Registry:
        if len(new) > len(registry.free_slots()):
            raise UserError(
                f"{place} has {len(registry.free_slots())} free slots for {len(new)} new concepts: leave some out with "
                "`use: false` in the library.yaml, or start a new registry with more --blocks"
            )
        for name in [name for name in names if name in new]:
            slots, today = registry.draw_slots(name, "free"), date.today().isoformat()
            registry = registry.claim(Entry(name=name, token=concept_token(name), slots=slots, date=today))
        return registry

    return update_registry(place, claim)


def _check_width(blocks: int, narrowest: int) -> None:
    if blocks > narrowest:
        raise UserError(
            f"{blocks} LoRAs need {blocks} blocks, and the narrowest of their layers has {narrowest} features: leave "
            "some out with `use: false` in the library.yaml, or use `python -m merge fit`, which needs no blocks"
        )
    if narrowest // blocks < NARROW:
        print(
            f"narrow: in some layers a block has {narrowest // blocks} features. In first experiments little was "
            f"learnt with fewer than {NARROW}: for so many LoRAs, `{as_called('python -m merge fit')}` keeps more"
        )


def _out(options: ConvertOptions, name: str) -> Path:
    return options.out / f"{name}.safetensors"


def _todo(
    options: ConvertOptions, registry: Registry, sources: Sequence[Source], names: dict[Path, str]
) -> list[Source]:
    """Those that no earlier run converted. Raises: UserError naming the results that were made of something else."""
    todo, changed = [], {}
    for source in sources:
        path, slots = _out(options, names[source.path]), registry.find(concept_token(names[source.path])).slots
        header = None if options.overwrite else _header(path)
        if header is None:
            todo.append(source)
        elif changes := changes_since(header, options, source, registry.partition, slots):
            changed[path] = changes
    refuse_changed(changed)
    return todo


def _header(path: Path) -> dict | None:
    """The header of a result of an earlier run; None if there is none that can be read."""
    try:
        return read_header(path)
    except UserError:
        return None


def _check_base(kept: Sequence[Path], digest: str) -> None:
    """Raises UserError naming the results that were converted for another model."""
    refuse_changed({path: ["model"] for path in kept if read_header(path).get("base_digest") != digest})
