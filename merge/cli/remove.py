"""`python -m merge remove`: removes a concept from a merged model's folder. The others are kept bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.block_weights import weigh_blocks
from blocklora_jax.adapters.concept_tokens import token_counts
from blocklora_jax.checkpoints.digest import params_digest
from blocklora_jax.command_line.options import read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.storage.copies import local_copy
from merge import remove as remove_concept
from merge import replace as replace_concept
from merge.cli.files import load_adapter
from merge.cli.shared_options import Options, Verify
from merge.manifest import SUM, MergeManifest, pairs_digest, read_merge_manifest, without_values
from merge.removable import check_removable, shares_in_basis, too_coarse
from merge.remove import check_untouched


@dataclass(frozen=True, kw_only=True)
class RemoveOptions(Options):
    """Remove a concept from a merged model. The result is, bit for bit, the merge of the other concepts."""

    merged: Positional[Path]
    """The folder that `python -m merge … --save` wrote."""
    name: Positional[str]
    """The concept's name (`python -m merge info` of its file prints it)."""
    out: Path
    """The folder to write. It may be MERGED itself, which is then changed in place."""
    adapter: Path | None = None
    """The concept's adapter file. It is needed if the adapter uses a basis and other concepts stay in the folder, which
    must then be in float32."""
    base: str | None = None
    """The base model, if it is no longer where it was when the concepts were merged."""
    variant: str | None = None
    """Read the weights of this variant of the base ("fp16"), if the concepts were merged into that."""
    overwrite: bool = False
    """Also write into a folder that this program did not make, and replace files of the same names."""
    verify: Verify = True


def remove_files(args: Sequence[str] | None = None) -> int:
    """Run `remove`; gives the exit code."""
    options = read_options(RemoveOptions, args, prog="python -m merge remove")
    return rewrite(options, None, 1.0)


def rewrite(options: RemoveOptions, new: Adapter | None, weight: float, files: Sequence[Path] = ()) -> int:
    """Replace the concept `options.name` by `new`, or remove it if `new` is None. Gives the exit code.

    files: the file that `new` was read from.
    """
    manifest = read_merge_manifest(options.merged, options.verify)
    _check_method(manifest, options.merged)
    # A manifest may name a base in an object store.
    name = local_copy(options.base or manifest.base_name)
    # `--out` may be the merged folder itself, which is then changed in place.
    in_place = options.out.resolve() == options.merged.resolve()
    own = [] if options.adapter is None else [options.adapter]
    inputs = [name, *files, *own, *([] if in_place else [options.merged])]
    plan_outputs([Output(options.out, "model folder")], inputs, overwrite=options.overwrite)
    index = manifest.index_of(options.name)
    merged = _merged_adapters(manifest, index, options)
    # Imported late: models bring Flax.
    from blocklora_jax.checkpoints.diffusers import load_folder, save_folder

    base = load_folder(name, variant=options.variant, verify=options.verify)
    _check_digest(params_digest(base.params), manifest, base.name)
    params = load_folder(options.merged, verify=options.verify).params
    check_untouched(params, base.params, manifest.adapters, manifest.dtype)
    if new is None:
        params = remove_concept(params, base.params, merged, options.name, weights=manifest.weights)
    else:
        weights = manifest.weights
        params = replace_concept(params, base.params, merged, options.name, new, weight, weights=weights)
    changed = _exchanged(manifest, index, new, weight)
    adapters = changed.adapters
    save_folder(
        options.out,
        replace(base, params=params),
        tokens=token_counts(adapters),
        dtype=manifest.dtype,
        merge=changed.to_json(),
        overwrite=options.overwrite,
    )
    print(f"wrote {options.out}: {', '.join(adapter.name for adapter in adapters) or 'the base model'}")
    return 0


def _merged_adapters(manifest: MergeManifest, index: int, options: RemoveOptions) -> list[Adapter]:
    """The merged adapters without values, except the one to be removed if its file is given."""
    adapters = list(manifest.adapters)
    if options.adapter is not None:
        adapters[index] = _own_adapter(options.adapter, manifest, index, options.verify)
    check_removable(adapters, options.name)
    if manifest.dtype != "float32" and shares_in_basis(adapters, options.name):
        raise UserError(too_coarse(options.name, manifest.dtype))
    return adapters


def _own_adapter(path: Path, manifest: MergeManifest, index: int, verify: bool) -> Adapter:
    """The adapter in the file, as it was merged. Raises UserError if it is not the one that was merged."""
    adapter, merged = load_adapter(path, verify).adapter, manifest.adapters[index]
    factors = manifest.block_weights[index] if manifest.block_weights else {}
    adapter = weigh_blocks(adapter, lambda layer: factors.get(layer, 1.0))
    if not _is_merged(adapter, merged, manifest.digests[index] if manifest.digests else ""):
        raise UserError(
            f"{path} is not the adapter {merged.name!r} that was merged (it is another concept, was trained again, or "
            "an older version merged it with --block-weights): give the file that was merged, or merge the others again"
        )
    # A library may have given it another name and other texts.
    return replace(adapter, info=merged.info)


def _is_merged(adapter: Adapter, merged: Adapter, digest: str) -> bool:
    """Whether all that decides the merged weights is that of the adapter that was merged."""
    outline = without_values(adapter)
    if merged.info.partition and merged.info.partition.basis and not digest and outline.info != merged.info:
        return False  # Older versions recorded no digest. Then the description has to do.
    sides = [(a.info.partition, a.info.slots, a.info.rank, a.info.alpha, a.shapes()) for a in (outline, merged)]
    counts = [token_counts([a]) for a in (outline, merged)]
    return sides[0] == sides[1] and counts[0] == counts[1] and digest in ("", pairs_digest(adapter))


def _exchanged(manifest: MergeManifest, index: int, new: Adapter | None, weight: float) -> MergeManifest:
    """The manifest with `new` in the place of the concept at `index`, or without that."""
    added = [] if new is None else [(without_values(new), weight, pairs_digest(new), {})]
    count = len(manifest.adapters)
    digests, factors = manifest.digests or ("",) * count, manifest.block_weights or ({},) * count
    members = list(zip(manifest.adapters, manifest.weights, digests, factors, strict=True))
    members[index : index + 1] = added
    columns = zip(*members, strict=True) if members else ((), (), (), ())
    adapters, weights, digests, factors = (tuple(column) for column in columns)
    return replace(manifest, adapters=adapters, weights=weights, digests=digests, block_weights=factors)


def _check_method(manifest: MergeManifest, folder: Path) -> None:
    if manifest.method != SUM:
        raise UserError(
            f"{folder} was merged by the method {manifest.method!r}, which mixes the concepts, so that none can be "
            f"removed or replaced: merge the adapters that you want again with `--method {manifest.method}`"
        )


def _check_digest(digest: str, manifest: MergeManifest, name: str) -> None:
    if digest != manifest.base_digest:
        raise UserError(
            f"{name} ({digest[:12]}) is not the base model {manifest.base_name} ({manifest.base_digest[:12]}) that the "
            "concepts were merged into: name it with --base"
        )
