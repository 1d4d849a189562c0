"""`python -m merge export`: writes adapters as one LoRA file for PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.block_weights import weigh_all
from blocklora_jax.adapters.sharing.command import check_flags, push_result
from blocklora_jax.adapters.sharing.options import PushFlags
from blocklora_jax.adapters.sharing.push import check_family
from blocklora_jax.command_line.options import read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import plan_outputs
from blocklora_jax.layouts.families.table import FamilyName as Family
from merge.cli.describe import overlap_report
from merge.cli.options import Precision
from merge.cli.reading import DEFAULT_RANK, AdapterReader
from merge.cli.shared_options import BlockWeights, Files, Options, Overwrite, SkipUnusable, Verify, Weights
from merge.cli.sources import find_sources, inputs_of, load_sources, weights_of
from merge.export.lora_file import export, export_outputs, read_export_header


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write adapters as one LoRA file for PyTorch, and each concept's token beside it.

    FILE.safetensors is for diffusers' `load_lora_weights`, FILE.<token>.safetensors for `load_textual_inversion`;
    FILE.embeddings/ holds the tokens for ComfyUI and A1111.
    """

    files: Files
    out: Path
    """The LoRA file to write (.safetensors)."""
    layout: str = "diffusers"
    """The layout of tensor names: "diffusers", or "kohya" for ComfyUI, A1111 and diffusers."""
    family: Family | None = None
    """The family of the base model, if the files do not show it (LoRAs of other programs with few layers). Of the files
    in a folder, only those for this family are taken."""
    max_rank: int | None = None
    """Reduce every layer's rank to this, by SVD. By default the export is exact, and its rank is the sum of all; only
    changes that are no product of small factors (DoRA, OFT, full differences and some LoKrs) are reduced to 64."""
    model: str | None = None
    """The base model, only for files whose changes depend on it (DoRA, OFT, IA3, GLoRA)."""
    card: bool = True
    """Write a README.md beside the file, or NAME.md if there is another README.md."""
    weights: Weights = ()
    block_weights: BlockWeights = ()
    dtype: Precision = "float32"
    """Type of the numbers in the files."""
    allow_overlap: bool = False
    """Sum adapters that own the same weights (equal slots) instead of refusing them."""
    sharing: OmitArgPrefixes[PushFlags] = PushFlags()
    skip_unusable: SkipUnusable = False
    overwrite: Overwrite = False
    verify: Verify = True


def export_files(args: Sequence[str] | None = None) -> int:
    """Run `export`: write the LoRA file and the token files; gives the exit code."""
    options = read_options(ExportOptions, args, prog="python -m merge export")
    skip = options.skip_unusable
    sources = find_sources(options.files, skip_unusable=skip, family=options.family)
    rank = DEFAULT_RANK if options.max_rank is None else options.max_rank
    reader = AdapterReader(model=options.model, verify=options.verify, max_rank=rank)
    sources, adapters = load_sources(sources, options.verify, skip_unusable=skip, reader=reader)
    _check_push(options, adapters)
    adapters = weigh_all(adapters, options.block_weights)
    planned = export_outputs(options.out, adapters, options.card)
    plan_outputs(planned, inputs_of(options.files, sources), overwrite=options.overwrite)
    if options.allow_overlap:
        print("".join(f"{line}\n" for line in overlap_report(adapters)), end="")
    written = export(
        adapters,
        options.out,
        options.layout,
        weights_of(sources, options.weights),
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
    if left_out := sum(len(adapter.vectors) for adapter in adapters):
        print(f"{left_out} changes of norms and biases are left out, because a LoRA file cannot hold them; --save does")
    for path in written:
        print(f"wrote {path}")
    push_result(options.sharing, adapters[0], sources[0].path, family=options.family)
    return 0


def _check_push(options: ExportOptions, adapters: Sequence[Adapter]) -> None:
    """Raises UserError if --push is given and the export is not that of one adapter, or the hub would refuse it."""
    if options.sharing.push is None:
        return
    if len(adapters) > 1:
        raise UserError(
            f"--push is for one adapter, and these are {len(adapters)}: a repository holds one. `hf upload OWNER/NAME"
            " FOLDER` uploads the files of an export of several"
        )
    if options.weights or options.block_weights or options.max_rank is not None:
        raise UserError("--push pushes the adapter as it is: leave out --weights, --block-weights and --max-rank")
    check_family(adapters[0], options.family)
    check_flags(options.sharing, adapters[0].name)
