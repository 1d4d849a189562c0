"""`python -m merge convert`: converts an ordinary LoRA into one with blocks, without pictures or training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.checks.names import plain_name
from blocklora_jax.command_line.options import read_options
from blocklora_jax.errors import UserError
from blocklora_jax.io.outputs import Output, plan_outputs
from blocklora_jax.library.library import is_library
from blocklora_jax.prompts.concept_token import concept_token
from blocklora_jax.prompts.shares import Kind
from blocklora_jax.registry.store import read_registry
from merge.cli.convolutions import without_convolutions
from merge.cli.reading import DEFAULT_RANK, AdapterReader
from merge.cli.shared_options import (
    Convolutions,
    CutAxis,
    FamilyOfFiles,
    MaxRank,
    Memory,
    Options,
    PartitionSeed,
    SkipUnusable,
    Variant,
    Verify,
    base_model_help,
)

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.conversion import ConversionConfig, Fit
    from blocklora_jax.prompts.random_prompts import PromptWords


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Convert an ordinary LoRA into an adapter with its own blocks, so that it merges losslessly with others.

    Of a folder or a library, every LoRA is converted, and each gets a slot of its own in a registry. What is done
    already is kept, so the command goes on where it was interrupted.
    On prompts with its trigger the result has the same output as the LoRA, as closely as its blocks allow. On other
    prompts it has as little output as possible.
    """

    file: Positional[Path]
    """The LoRA: a file of another trainer, or an adapter.safetensors without blocks. Or a folder, or a library.yaml."""
    out: Path
    """The adapter to write; for a folder: the folder for the adapters, NAME.safetensors each."""
    slot: tuple[int, ...] | None = None
    """The slots that the result owns (or name a --registry)."""
    model: Annotated[str, base_model_help("that the LoRA was trained on")] = "pocket"
    variant: Variant = None
    blocks: int = 16
    """K: the number of blocks of every weight. It must be the same in all adapters to be merged."""
    axis: CutAxis = "in"
    partition_seed: PartitionSeed = 0
    registry: str | None = None
    """Take blocks, axis, seed and slots from this registry (file, folder or URL), in which --name has a claim. For a
    folder: claim slots in it. Default: registry.json in --out, with as many --blocks as there are LoRAs, or more."""
    trigger: str | None = None
    """The words that call this concept and nothing else, such as "sks dog". Default: those in the file."""
    class_noun: str | None = None
    """The concept's class, in a word that the model knows. Default: the one in the file."""
    kind: Kind | None = None
    """The kind of concept, which decides the trigger's place in prompts. Default: the one in the file."""
    name: str | None = None
    """The concept's name. Default: the one in the file, or the file's name."""
    rank: int = 16
    """Rank of the result."""
    erase_weight: Annotated[float, tyro.conf.arg(name="lambda")] = 1.0
    """Weight of the loss on random prompts, on which the result should have no output."""
    prompts: int = 64
    """Number of prompts with the trigger."""
    random_prompts: int = 256
    """Number of prompts without the trigger."""
    random_styles: tuple[str, ...] = ()
    """Beginnings of all these prompts, such as "a photo of". Default: a list that fits the model."""
    random_subjects: tuple[str, ...] = ()
    """Class nouns of other subjects in these prompts. Default: a list that fits the model."""
    random_scenes: tuple[str, ...] = ()
    """Ends of these prompts, such as "on a beach". Default: a list that fits the model."""
    steps: int = 4
    """Sampling steps of the pictures on which layers that read pictures are fitted."""
    seed: int = 0
    """Seed of prompts and pictures."""
    memory: Memory = None
    convolutions: Convolutions = "refuse"
    max_rank: MaxRank = DEFAULT_RANK
    family: FamilyOfFiles = None
    skip_unusable: SkipUnusable = False
    overwrite: bool = False
    """Replace an existing file."""
    verify: Verify = True


def convert_file(args: Sequence[str] | None = None) -> int:
    """Run `convert`; gives the exit code."""
    options = read_options(ConvertOptions, args, prog="python -m merge convert")
    if options.convolutions == "keep":
        raise UserError(
            "--convolutions keep is not possible here: blocks hold no 3x3 convolutions; drop or refuse them"
        )
    if is_library(options.file):
        from merge.cli.convert_library import convert_library

        return convert_library(options)
    adapter = _renamed(reader_of(options)(options.file), options)
    if adapter.info.partition is not None:
        raise UserError(f"{options.file} already has blocks: it can be merged without conversion")
    plain_name(adapter.name, f"the concept of {options.file}")
    partition, slots = _place(options, adapter)
    plan_outputs([Output(options.out, "adapter")], [options.file, options.model], overwrite=options.overwrite)
    fitted, fits = Converter.load(options).convert(adapter, options.file, partition, slots)
    fitted.save(options.out)
    print(f"{'layers':<24}{'fit error':>11}{'leakage':>9}{'leakage before':>16}")
    for kind, fit in fits.items():
        print(f"{kind:<24}{fit.error:>11.0%}{fit.leak:>9.0%}{fit.leak_before:>16.0%}")
    print(
        f"wrote {options.out}: {fitted.name!r} owns slot {', '.join(map(str, fitted.info.slots))}, "
        f"called by {fitted.info.trigger!r}"
    )
    return 0


@dataclass(frozen=True)
class Converter:
    """A model, loaded once, that converts adapters as the options say."""

    sd: StableDiffusion
    digest: str
    words: PromptWords
    config: ConversionConfig
    options: ConvertOptions

    @classmethod
    def load(cls, options: ConvertOptions) -> Converter:
        """Read the model that the options name."""
        # Imported here, because the model needs Flax.
        from blocklora_jax.checkpoints.digest import params_digest
        from blocklora_jax.pipeline import StableDiffusion

        sd = StableDiffusion.from_pretrained(
            options.model, variant=options.variant, verify=options.verify, on_host=("vae",)
        )
        return cls(sd, params_digest(sd.params), prompt_words(options), conversion_config(options), options)

    def convert(
        self, adapter: Adapter, file: Path, partition: Partition, slots: tuple[int, ...]
    ) -> tuple[Adapter, dict[str, Fit]]:
        """The adapter in `slots`, and how well each type of layer was fitted.

        Raises: UserError for an adapter that was trained on another model, or cannot be converted.
        """
        from blocklora_jax.probing.conversion import convert

        if adapter.info.base_digest not in ("", self.digest):
            raise UserError(
                f"{file} was trained on {adapter.info.base_name} ({adapter.info.base_digest[:12]}), and "
                f"{self.options.model} ({self.digest[:12]}) is another model: name the right one with --model"
            )
        info = dataclasses.replace(adapter.info, base_digest=self.digest, base_name=self.sd.checkpoint.public_name)
        adapter = dataclasses.replace(adapter, info=info)
        if adapter.vectors:
            print(
                f"{len(adapter.vectors)} changes of norms and biases of {adapter.name} are left out: blocks hold none"
            )
        if self.options.convolutions == "drop":
            adapter = without_convolutions([adapter])[0][0]
        return convert(self.sd, adapter, partition, slots, self.words, self.config, memory=self.options.memory)


def reader_of(options: ConvertOptions, converter: Converter | None = None) -> AdapterReader:
    """Reads the files of the command. converter: has the base model in memory."""
    return AdapterReader(
        model=options.model,
        variant=options.variant,
        verify=options.verify,
        max_rank=options.max_rank,
        params=converter.sd.checkpoint.params if converter else None,
    )


def conversion_config(options: ConvertOptions) -> ConversionConfig:
    """The settings of the conversion that the options give."""
    from blocklora_jax.probing.conversion import ConversionConfig

    return ConversionConfig(
        rank=options.rank, erase_weight=options.erase_weight, prompts=options.prompts,
        random_prompts=options.random_prompts, steps=options.steps, seed=options.seed,
    )  # fmt: skip


def prompt_words(options: ConvertOptions) -> PromptWords:
    """The words of prompts that the options give, or those that fit the model."""
    from blocklora_jax.pocket.prompt_words import words_for
    from blocklora_jax.prompts.random_prompts import PromptWords

    listed = words_for(options.model)
    return PromptWords(
        styles=options.random_styles or listed.styles,
        subjects=options.random_subjects or listed.subjects,
        scenes=options.random_scenes or listed.scenes,
    )


def _renamed(adapter: Adapter, options: ConvertOptions) -> Adapter:
    given = {n: getattr(options, n) for n in ("trigger", "class_noun", "kind", "name") if getattr(options, n)}
    return dataclasses.replace(adapter, info=dataclasses.replace(adapter.info, **given))


def _place(options: ConvertOptions, adapter: Adapter) -> tuple[Partition, tuple[int, ...]]:
    if options.registry is None:
        if not options.slot:
            raise UserError("give a slot for the adapter with --slot, or name a --registry in which it has one")
        return Partition(num_blocks=options.blocks, axis=options.axis, seed=options.partition_seed), options.slot
    registry = read_registry(options.registry)
    entry = next((entry for entry in registry.entries if entry.name == adapter.name), None)
    token = entry.token if entry else next(iter(adapter.tokens), concept_token(adapter.name))
    slots = registry.find(token).slots
    if options.slot and tuple(sorted(options.slot)) != slots:
        raise UserError(f"{adapter.name!r} is registered for --slot {' '.join(map(str, slots))}")
    return registry.partition, slots
