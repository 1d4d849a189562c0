"""`python -m merge plan`: how many blocks a number of concepts needs, and how large each concept's blocks are."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blocklora_jax.adapters.partition import Axis
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.command_line.options import read_options
from blocklora_jax.errors import UserError
from blocklora_jax.layouts.low_rank import KernelShapes
from merge.cli.plan_machine import COSTS, Job, describe_machine
from merge.cli.shared_options import CutAxis, Options

# From first experiments on a small model: with 6 features in a block nothing was learnt; with 24 a person was learnt.
NARROW = 24
# The fewest text directions of a block with which concepts were measured.
_FEWEST_DIRECTIONS = 4
# The configuration for these numbers of blocks of the pocket model's text, and its rank. Other numbers are multiples of
# 16.
_POCKET = {64: ("", 8), 128: ("--config token_side_128", 4)}
_USUAL_RANK = _STEP = 16


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Options):
    """Compute how many blocks a number of concepts needs, and how large each concept's blocks are.

    The blocks are those of text directions, as in the defaults of `train.concept`, if all layers read text.
    K, the number of blocks, is fixed when the first concept is trained: leave room for later concepts.
    """

    concepts: int
    """The largest number of concepts that you will merge, now or later."""
    model: str = "pocket"
    """The base model: "pocket", "sd15", "sd21", "sdxl", a Diffusers folder or a hub id (only configs are read)."""
    layers: str = "cross_kv"
    """Which layers are adapted: cross_kv, attention, full, text_encoder, or several joined with '+'."""
    features: bool = False
    """Plan blocks of the features themselves (--config feature_blocks)."""
    axis: CutAxis = "in"
    slots: int = 1
    """Number of slots for each concept."""
    rank: int | None = None
    """The rank of the adapters. Default: 16, or as much as blocks of text directions can use."""
    token_vectors: int = 2
    """Number of embedding vectors of each concept's token."""
    machine: str | None = None
    """Also say how many hours, how much memory and storage training takes on N devices of a kind, such as v5e-8: h100,
    h200, a100, l4, v4, v5e, v5p, v6e. For sd15, sd21 and sdxl."""
    steps: int = 500
    """With --machine: steps of each concept."""
    batch: int = 1
    """With --machine: pictures in a step."""
    step_seconds: float | None = None
    """With --machine: seconds of a step of one concept with one picture on one device, as you measured them."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """The layers with one kernel shape [n, m].

    layers: their number. rows, columns: the least and the largest number that one concept owns in such a kernel.
    """

    shape: tuple[int, int]
    layers: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    in_basis: bool = False

    @property
    def rank_limit(self) -> int:
        """The highest rank that a change of the smallest block can have."""
        return min(self.rows[0], self.columns[0])

    def numbers(self, rank: int) -> int:
        """How many numbers an adapter of rank `rank` stores for all these layers at most."""
        return self.layers * rank * ((self.shape[0] if self.in_basis else self.rows[1]) + self.columns[1])


def plan_widths(shapes: KernelShapes, blocks: int, axis: Axis, slots: int = 1) -> list[Width]:
    """What a concept with `slots` of `blocks` slots owns in layers of each shape. The widest layers come first.

    Raises: UserError if a layer is narrower than the number of blocks.
    """
    counts = Counter(shape for layers in shapes.values() for shape in layers.values())
    return [
        Width(
            shape=shape,
            layers=count,
            rows=_share(shape[0], blocks, slots) if axis != "out" else (shape[0], shape[0]),
            columns=_share(shape[1], blocks, slots) if axis != "in" else (shape[1], shape[1]),
        )
        for shape, count in sorted(counts.items(), reverse=True)
    ]


def plan_command(args: Sequence[str] | None = None) -> int:
    """Run `plan`; gives the exit code."""
    return print_plan(read_options(PlanOptions, args, prog="python -m merge plan"))


def print_plan(options: PlanOptions) -> int:
    """Print the plan; gives the exit code."""
    # Imported here, because a model's shapes are computed with Flax.
    from blocklora_jax.checkpoints.kernels import model_kernels

    print("\n".join(describe_plan(options, model_kernels(options.model, options.layers))))
    return 0


def describe_plan(options: PlanOptions, shapes: KernelShapes) -> list[str]:
    """The plan as lines of text."""
    in_basis = not options.features and options.axis == "in" and _all_read_text(shapes)
    needed = options.concepts * options.slots
    blocks = _usual_blocks(options, needed) if in_basis else needed
    widths = plan_widths(shapes, blocks, options.axis, options.slots)
    if in_basis:
        widths = [replace(width, in_basis=True) for width in widths]
    rank = options.rank or (min(_USUAL_RANK, *(w.rank_limit for w in widths)) if in_basis else _USUAL_RANK)
    each = "one slot each" if options.slots == 1 else f"{options.slots} slots each"
    lines = [
        f"{options.concepts} concepts on {options.model} ({options.layers}: {sum(w.layers for w in widths)} layers), "
        f"{each}:",
        *(_train_in_basis(options, blocks, rank) if in_basis else _train_features(options, blocks, rank)),
        *_claim(options),
        "",
        f"{'layer, in x out':>16} {'layers':>7} {'a concept owns':>18} {'rank limit':>11} "
        f"{f'bytes at rank {rank}':>17}",
    ]
    for width in widths:
        shape, owned = f"{width.shape[0]} x {width.shape[1]}", f"{_range(width.rows)} x {_range(width.columns)}"
        size = 4 * width.numbers(rank)
        lines.append(f"{shape:>16} {width.layers:>7} {owned:>18} {width.rank_limit:>11} {size:>17,}")
    size = 4 * sum(width.numbers(rank) for width in widths) + _token_bytes(options, shapes)
    lines += ["", f"A concept's file: about {size / 1e6:.2f} MB, tokens included."]
    if full := [width for width in widths if width.rank_limit < rank]:
        limits = ", ".join(f"{w.shape[0]} x {w.shape[1]}: {w.rank_limit}" for w in full)
        lines.append(f"Rank {rank} is more than some blocks can use ({limits}): a lower --rank makes a smaller file.")
    lines += _warn(widths, options)
    if options.machine is not None:
        job = Job(options.model, options.concepts, options.steps, options.batch, options.step_seconds)
        lines += describe_machine(job, options.machine, size)
    return lines


def _all_read_text(shapes: KernelShapes) -> bool:
    """Whether blocks of text directions are all that is needed."""
    return all(part == "unet" and reads_text(f"{part}/{path}") for part, layers in shapes.items() for path in layers)


def _usual_blocks(options: PlanOptions, needed: int) -> int:
    """How many blocks have room for so many slots."""
    ready = [count for count in _POCKET if count >= needed and options.model == "pocket"]
    return ready[0] if ready else -(-needed // _STEP) * _STEP


def _train_in_basis(options: PlanOptions, blocks: int, rank: int) -> list[str]:
    """How to train in blocks of text directions."""
    fixed = f"K = {blocks} blocks of text directions, which cannot be changed later"
    if options.model == "pocket" and blocks in _POCKET:
        config, usual = _POCKET[blocks]
        return [_train(options, config, rank, usual, fixed)]
    source = "--extend pocket" if options.model == "pocket" else f"--model {_model(options)}"
    return [
        f"  first, once: python -m train.basis {source} --blocks {blocks} --out basis.safetensors",
        _train(options, f"--basis basis.safetensors --blocks {blocks}", rank, None, fixed),
    ]


def _train_features(options: PlanOptions, blocks: int, rank: int) -> list[str]:
    """How to train in blocks of features."""
    config = f"--config feature_blocks --blocks {blocks} --axis {options.axis}"
    return [_train(options, config, rank, _USUAL_RANK, f"K = {blocks}, which cannot be changed later")]


def _train(options: PlanOptions, config: str, rank: int, usual: int | None, fixed: str) -> str:
    """The flags of all trainings: those of a configuration with the rank `usual`, and what the plan has otherwise."""
    flags = [config] if config else []
    flags += [f"--rank {rank}"] if rank != usual else []
    flags += [f"--model {_model(options)}"] if options.model != "pocket" else []
    flags += [f"--layers {options.layers}"] if options.layers != PlanOptions.layers else []
    flags += [f"--token-vectors {options.token_vectors}"] if options.token_vectors != PlanOptions.token_vectors else []
    return f"  train all of them with {' '.join(flags) or 'the defaults'} ({fixed})"


def _claim(options: PlanOptions) -> list[str]:
    """How a concept gets several slots, which is never the default."""
    if options.slots == 1:
        return []
    return [
        f"  give each concept {options.slots} slots: python -m merge registry add WHERE NAME --count {options.slots}, "
        f"or {options.slots} numbers of its own after --slot in its training"
    ]


def _model(options: PlanOptions) -> str:
    """The base model in a command. sd15 stands for any model of that shape."""
    return "MODEL" if options.model in COSTS else shlex.quote(options.model)


def _warn(widths: list[Width], options: PlanOptions) -> list[str]:
    """A line if blocks are narrower than those with which concepts were learnt."""
    share = "Concepts that are never merged with each other may share slots (registry new --per-slot)."
    smallest = min(min(_cut(width, options.axis)) for width in widths)
    if widths[0].in_basis:
        few = (
            f"Narrow: a concept owns {smallest} of {widths[0].shape[0]} text directions. Fewer than "
            f"{_FEWEST_DIRECTIONS} were not measured."
        )
        return [f"{few} {share}"] if smallest < _FEWEST_DIRECTIONS else []
    if smallest >= NARROW:
        return []
    fits = max(1, min(min(cut_sizes(width.shape, options.axis)) for width in widths) // NARROW)
    return [
        f"Narrow: in some layers a concept owns {smallest} features. In first experiments little was learnt with fewer "
        f"than {NARROW}. {fits} concepts would have {NARROW}. {share}"
    ]


def cut_sizes(shape: tuple[int, int], axis: Axis) -> list[int]:
    """The sides of a kernel [n, m] that `axis` cuts into blocks."""
    return [size for size, cut in zip(shape, (axis != "out", axis != "in"), strict=True) if cut]


def _cut(width: Width, axis: Axis) -> list[int]:
    sides = ((width.rows, axis != "out"), (width.columns, axis != "in"))
    return [owned[0] for owned, cut in sides if cut]


def _share(size: int, blocks: int, slots: int) -> tuple[int, int]:
    """The least and the largest number of features in `slots` blocks. The sizes of blocks differ by one at most."""
    if size < blocks:
        raise UserError(
            f"{blocks} blocks are more than the narrowest layer has features ({size}): plan fewer concepts, fewer"
            " --slots, other --layers or another --axis"
        )
    low, rest = divmod(size, blocks)
    return slots * low + max(0, slots - (blocks - rest)), slots * low + min(slots, rest)


def _range(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}"


def _token_bytes(options: PlanOptions, shapes: KernelShapes) -> int:
    """The size of the concept's embeddings, which are as wide as the inputs of the layers that read text."""
    text = [
        shape[0]
        for component, layers in shapes.items()
        for path, shape in layers.items()
        if component != "unet" or path.endswith(("attn2/to_k", "attn2/to_v"))
    ]
    return 4 * options.token_vectors * max(text, default=0)
