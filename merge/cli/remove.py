"""`python -m merge remove` and `replace`: one concept out of a merged model's folder, the others bit for bit as they were."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.options import check_options, read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from merge import remove as remove_concept
from merge import replace as replace_concept
from merge.manifest import MergeRecord, outline, read_record
from merge.remove import check_untouched


@dataclass(frozen=True, kw_only=True)
class RemoveOptions:
    """Take one concept out of a merged model: the result is, bit for bit, the merge of the others."""

    merged: Positional[Path]
    """The folder that `python -m merge … --save` wrote."""
    name: Positional[str]
    """The concept's name (`python -m merge info` of its file says it)."""
    out: Path
    """The folder to write; MERGED itself to change it where it is."""
    base: str | None = None
    """The base model, if it is not where it was when they were merged."""
    variant: str | None = None
    """Read the weights of this variant of the base ("fp16"), if that is what they were merged into."""
    overwrite: bool = False
    """Write into a folder that this program did not make, too, and replace the files of the same names."""
    verify: bool = True
    """Refuse files that changed since they were written; --no-verify for those that were edited on purpose."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ReplaceOptions(RemoveOptions):
    """Put another adapter in the place of a concept: the result is, bit for bit, the merge with it instead."""

    file: Positional[Path]
    """The adapter that takes its place."""
    weight: float = 1.0
    """How strongly it joins."""


def remove_files(args: Sequence[str]) -> int:
    """Run `remove`; gives the exit code."""
    options = read_options(RemoveOptions, args, prog="python -m merge remove")
    return _rewrite(options, None, 1.0)


def replace_files(args: Sequence[str]) -> int:
    """Run `replace`; gives the exit code."""
    options = read_options(ReplaceOptions, args, prog="python -m merge replace")
    return _rewrite(options, Adapter.load(options.file, options.verify), options.weight, [options.file])


def _rewrite(options: RemoveOptions, new: Adapter | None, weight: float, files: Sequence[Path] = ()) -> int:
    record = read_record(options.merged, options.verify)
    name = options.base or record.base_name
    # `--out` may be the merged folder itself: the concept is then exchanged where it is.
    in_place = options.out.resolve() == options.merged.resolve()
    inputs = [name, *files, *([] if in_place else [options.merged])]
    plan_outputs([Output(options.out, "model folder")], inputs, overwrite=options.overwrite)
    index = record.index_of(options.name)
    # Imported late: models bring Flax.
    from blocklora_jax.checkpoints.diffusers import load_folder, save_folder

    base = load_folder(name, variant=options.variant, verify=options.verify)
    _check_digest(params_digest(base.params), record, base.name)
    params = load_folder(options.merged, verify=options.verify).params
    check_untouched(params, base.params, record.adapters, record.dtype)
    if new is None:
        params, after = remove_concept(params, base.params, record.adapters, options.name), []
    else:
        params = replace_concept(params, base.params, record.adapters, options.name, new, weight)
        after = [(outline(new), weight)]
    members = list(zip(record.adapters, record.weights, strict=True))
    members = [*members[:index], *after, *members[index + 1 :]]
    adapters, weights = [a for a, _ in members], [w for _, w in members]
    after_record = replace(record, adapters=tuple(adapters), weights=tuple(weights))
    save_folder(
        options.out,
        replace(base, params=params),
        tokens=token_counts(adapters),
        dtype=record.dtype,
        merge=after_record.to_json(),
        overwrite=options.overwrite,
    )
    print(f"wrote {options.out}: {', '.join(adapter.name for adapter in adapters) or 'the base model'}")
    return 0


def _check_digest(digest: str, record: MergeRecord, name: str) -> None:
    if digest != record.base_digest:
        raise UserError(
            f"{name} ({digest[:12]}) is not the base model {record.base_name} ({record.base_digest[:12]}) that the concepts "
            "were merged into: name it with --base"
        )
