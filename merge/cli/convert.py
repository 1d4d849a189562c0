"""`python -m merge convert`: an ordinary LoRA becomes one that owns blocks, without pictures or training."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checks.names import plain_name
from blocklora_jax.command_line.options import read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.prompts.shares import Kind
from blocklora_jax.registry.store import read_registry
from merge.cli.shared_options import CutAxis, Options, PartitionSeed, Variant, Verify, base_model_help


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Convert an ordinary LoRA into blocks of its own, so that it merges losslessly with others.

    On prompts with its trigger the result does what the LoRA does, as closely as its blocks can; on other prompts it
    does as little as possible.
    """

    file: Positional[Path]
    """The LoRA: a file of another trainer, or an adapter.safetensors without blocks."""
    out: Path
    """The adapter to write."""
    slot: tuple[int, ...] | None = None
    """The slots that it is to own (or name a --registry)."""
    model: Annotated[str, base_model_help("that it was trained on")] = "pocket"
    variant: Variant = None
    blocks: int = 16
    """K: how many blocks every weight is cut into, as in the adapters that it is to be merged with."""
    axis: CutAxis = "in"
    partition_seed: PartitionSeed = 0
    registry: str | None = None
    """Take blocks, axis, seed and slots from this registry (file, folder or URL), where --name is claimed."""
    trigger: str | None = None
    """The words that call its concept and nothing else, such as "sks dog"; what the file says if not given."""
    class_noun: str | None = None
    """What it is, in a word that the model knows; what the file says if not given."""
    kind: Kind | None = None
    """Of the concept: as a scene or a style it is called elsewhere in a prompt; what the file says if not given."""
    name: str | None = None
    """The concept's name; the file's if not given."""
    rank: int = 16
    """Rank of the result."""
    erase_weight: Annotated[float, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the loss on random prompts, where the result should do nothing."""
    prompts: int = 64
    """Prompts with the trigger to fit on."""
    random_prompts: int = 256
    """Prompts without it."""
    random_styles: tuple[str, ...] = ()
    """Beginnings of all these prompts ("a photo of"); a list that fits the model if not given."""
    random_subjects: tuple[str, ...] = ()
    """Class nouns of the random ones."""
    random_scenes: tuple[str, ...] = ()
    """Their ends ("on a beach")."""
    steps: int = 4
    """Steps of the pictures on which layers that read pictures are fitted."""
    seed: int = 0
    """Seeds prompts and pictures."""
    overwrite: bool = False
    """Replace a file that is there already."""
    verify: Verify = True


def convert_file(args: Sequence[str] | None = None) -> int:
    """Run `convert`; gives the exit code."""
    options = read_options(ConvertOptions, args, prog="python -m merge convert")
    adapter = _renamed(Adapter.load(options.file, options.verify), options)
    if adapter.info.partition is not None:
        raise UserError(f"{options.file} has blocks already: it merges as it is")
    plain_name(adapter.name, f"the concept of {options.file}")
    partition, slots = _place(options, adapter)
    plan_outputs([Output(options.out, "adapter")], [options.file, options.model], overwrite=options.overwrite)
    # Imported late: the model brings Flax.
    from blocklora_jax.checkpoints.digest import params_digest
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.pocket.prompt_words import words_for
    from blocklora_jax.probing.conversion import ConversionConfig, convert
    from blocklora_jax.prompts.random_prompts import PromptWords

    sd = StableDiffusion.from_pretrained(options.model, variant=options.variant, verify=options.verify)
    digest = params_digest(sd.params)
    if adapter.info.base_digest not in ("", digest):
        raise UserError(
            f"{options.file} was trained on {adapter.info.base_name} ({adapter.info.base_digest[:12]}), and "
            f"{options.model} ({digest[:12]}) is another model: name its own with --model"
        )
    info = dataclasses.replace(adapter.info, base_digest=digest, base_name=sd.checkpoint.public_name)
    config = ConversionConfig(
        rank=options.rank, erase_weight=options.erase_weight, prompts=options.prompts,
        random_prompts=options.random_prompts, steps=options.steps, seed=options.seed,
    )  # fmt: skip
    adapter = dataclasses.replace(adapter, info=info)
    listed = words_for(options.model)
    words = PromptWords(
        styles=options.random_styles or listed.styles,
        subjects=options.random_subjects or listed.subjects,
        scenes=options.random_scenes or listed.scenes,
    )
    fitted, fits = convert(sd, adapter, partition, slots, words, config)
    fitted.save(options.out)
    print(f"{'layers':<24}{'fit error':>11}{'leakage':>9}{'leakage before':>16}")
    for kind, fit in fits.items():
        print(f"{kind:<24}{fit.error:>11.0%}{fit.leak:>9.0%}{fit.leak_before:>16.0%}")
    print(
        f"wrote {options.out}: {fitted.name!r} owns slot {', '.join(map(str, fitted.info.slots))}, "
        f"called by {info.trigger!r}"
    )
    return 0


def _renamed(adapter: Adapter, options: ConvertOptions) -> Adapter:
    given = {n: getattr(options, n) for n in ("trigger", "class_noun", "kind", "name") if getattr(options, n)}
    return dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, **given))


def _place(options: ConvertOptions, adapter: Adapter) -> tuple[Partition, tuple[int, ...]]:
    if options.registry is None:
        if not options.slot:
            raise UserError("say which slot it is to own, with --slot, or name a --registry in which it has one")
        return Partition(num_blocks=options.blocks, axis=options.axis, seed=options.partition_seed), options.slot
    registry = read_registry(options.registry)
    entry = next((entry for entry in registry.entries if entry.name == adapter.name), None)
    token = entry.token if entry else next(iter(adapter.tokens), concept_token(adapter.name))
    slots = registry.find(token).slots
    if options.slot and tuple(sorted(options.slot)) != slots:
        raise UserError(f"{adapter.name!r} is registered for --slot {' '.join(map(str, slots))}")
    return registry.partition, slots
