"""`python -m merge convert`: converts ordinary LoRAs into adapters with blocks, without pictures or training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.sharing.command import check_flags, push_result
from blocklora_jax.checks.names import plain_name
from blocklora_jax.command_line.options import read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.library.library import is_library
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.registry.store import read_registry
from merge.cli.convert_library import convert_library
from merge.cli.convert_options import ConvertOptions
from merge.cli.converter import Converter, reader_of
from merge.cli.sources import find_sources


def convert_file(args: Sequence[str] | None = None) -> int:
    """Run `convert`; gives the exit code."""
    options = read_options(ConvertOptions, args, prog="python -m merge convert")
    if options.convolutions == "keep":
        raise UserError(
            "--convolutions keep is not possible here: blocks hold no 3x3 convolutions; drop or refuse them"
        )
    if is_library(options.file):
        if options.sharing.push is not None:
            raise UserError(f"--push is for one adapter, and {options.file} has many: push them later, with `push`")
        return convert_library(options)
    [source] = find_sources([options.file])
    adapter = _renamed(source.read(reader_of(options)), options)
    if adapter.info.partition is not None:
        raise UserError(f"{options.file} already has blocks: it can be merged without conversion")
    plain_name(adapter.name, f"{options.file}: the concept's name")
    registered, slots = _place(options, adapter)
    plan_outputs([Output(options.out, "adapter")], [source.path, options.model], overwrite=options.overwrite)
    check_flags(options.sharing, adapter.name)
    converter = Converter.load(options, registered)
    partition = registered or converter.partition(1)
    fitted, fits = converter.convert(adapter, options.file, partition, slots)
    fitted.save(options.out)
    print(f"{'layers':<24}{'fit error':>11}{'leakage':>9}{'leakage before':>16}")
    for kind, fit in fits.items():
        print(f"{kind:<24}{fit.error:>11.0%}{fit.leak:>9.0%}{fit.leak_before:>16.0%}")
    print(
        f"wrote {options.out}: {fitted.name!r} owns slot {', '.join(map(str, fitted.info.slots))}, "
        f"called by {fitted.info.trigger!r}"
    )
    push_result(options.sharing, fitted, options.out)
    return 0


def _renamed(adapter: Adapter, options: ConvertOptions) -> Adapter:
    given = {n: getattr(options, n) for n in ("trigger", "class_noun", "kind", "name") if getattr(options, n)}
    return dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, **given))


def _place(options: ConvertOptions, adapter: Adapter) -> tuple[Partition | None, tuple[int, ...]]:
    """The partition of the registry, if there is one, and the slots."""
    if options.registry is None:
        if not options.slot:
            raise UserError("give a slot for the adapter with --slot, or name a --registry in which it has one")
        return None, options.slot
    registry = read_registry(options.registry)
    entry = next((entry for entry in registry.entries if entry.name == adapter.name), None)
    token = entry.token if entry else next(iter(adapter.tokens), concept_token(adapter.name))
    slots = registry.find(token).slots
    if options.slot and tuple(sorted(options.slot)) != slots:
        raise UserError(f"{adapter.name!r} is registered for --slot {' '.join(map(str, slots))}")
    return registry.partition, slots
