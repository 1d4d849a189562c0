"""The options of `python -m merge convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from blocklora_jax.adapters.sharing.options import PushFlags
from blocklora_jax.checks.bounds import BOUNDS
from blocklora_jax.command_line.options import check_options
from blocklora_jax.prompts.shares import Kind
from merge.cli.reading import DEFAULT_RANK
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
    from blocklora_jax.adapters.partition import Partition
    from blocklora_jax.probing.conversion_config import ConversionConfig
    from blocklora_jax.probing.text_conversion_config import TextConversionConfig
    from blocklora_jax.prompts.random_prompts import PromptWords


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Convert an ordinary LoRA into an adapter with its own blocks, so that it merges losslessly with others.

    Of a folder or a library, every LoRA is converted, and each gets a slot of its own in a registry. What is done
    already is kept, so the command goes on where it was interrupted. Weights of a library are multiplied in.
    On prompts with its trigger the result has the same output as the LoRA, as closely as its blocks allow. On other
    prompts it has as little output as possible. With a basis the result is called by a token of its own, `<name>`, and
    changes only layers that read text.
    """

    file: Positional[Path]
    """The LoRA: a file of another trainer, an adapter.safetensors without blocks, or a repository (hub:owner/name). Or
    a folder of them, or a library.yaml."""
    out: Path
    """The adapter to write; for a folder: the folder for the adapters, NAME.safetensors each."""
    slot: tuple[int, ...] | None = None
    """The slots that the result owns (or name a --registry)."""
    basis: str | None = "pocket"
    """The slots are blocks of this basis of --model's text, as for `train.concept`, and the result has a token that
    speaks in its slot. A file of `python -m train.basis`, or "pocket" for the packaged one of the pocket model. None:
    the slots are blocks of the features themselves, which keep much less when many are merged."""
    model: Annotated[str, base_model_help("that the LoRA was trained on")] = "pocket"
    variant: Variant = None
    blocks: int | None = None
    """K: the number of blocks of every weight. It must be the same in all adapters to be merged. Default: 64, or for
    more LoRAs the next number for which the basis has codewords; without a basis 16, or as many as there are LoRAs."""
    axis: CutAxis = "in"
    partition_seed: PartitionSeed = 0
    registry: str | None = None
    """Take blocks, axis, seed and slots from this registry (file, folder or URL), in which --name has a claim. For a
    folder: claim slots in it. Default: registry.json in --out."""
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
    others: int = 15
    """With a basis: how many other concepts are expected in a merge. More of them: the result is quieter for their
    tokens, and keeps less of the LoRA."""
    prompts: int | None = None
    """Number of prompts with the trigger. Default: 256; without a basis 64."""
    random_prompts: int = 256
    """Number of prompts without the trigger."""
    random_styles: tuple[str, ...] = ()
    """Beginnings of all these prompts, such as "a photo of". Default: a list that fits the model."""
    random_subjects: tuple[str, ...] = ()
    """Class nouns of other subjects in these prompts. Default: a list that fits the model."""
    random_scenes: tuple[str, ...] = ()
    """Ends of these prompts, such as "on a beach". Default: a list that fits the model."""
    token_steps: int = 400
    """With a basis: steps in which the token is trained through the text encoder. They need no pictures."""
    steps: int = 4
    """Without a basis: sampling steps of the pictures on which layers that read pictures are fitted."""
    seed: int = 0
    """Seed of prompts and pictures."""
    memory: Memory = None
    convolutions: Convolutions = "refuse"
    max_rank: MaxRank = DEFAULT_RANK
    family: FamilyOfFiles = None
    skip_unusable: SkipUnusable = False
    sharing: OmitArgPrefixes[PushFlags] = PushFlags()
    overwrite: bool = False
    """Replace an existing file; for a folder: convert all anew."""
    verify: Verify = True

    def __post_init__(self) -> None:
        # 0 stands for "no blocks" in a training, and makes no sense here.
        check_options(self, {"blocks": BOUNDS["slots"]})


def conversion_config(options: ConvertOptions, partition: "Partition") -> "ConversionConfig | TextConversionConfig":
    """The settings of a conversion into slots of `partition` that the options give."""
    from blocklora_jax.probing.conversion import ConversionConfig
    from blocklora_jax.probing.text_conversion_config import TextConversionConfig

    given: dict[str, Any] = {} if options.prompts is None else {"prompts": options.prompts}
    given |= {name: getattr(options, name) for name in ("rank", "erase_weight", "random_prompts", "seed")}
    if partition.basis:
        return TextConversionConfig(others=options.others, token_steps=options.token_steps, **given)
    return ConversionConfig(steps=options.steps, **given)


def prompt_words(options: ConvertOptions) -> "PromptWords":
    """The words of prompts that the options give, or those that fit the model."""
    from blocklora_jax.pocket.prompt_words import words_for
    from blocklora_jax.prompts.random_prompts import PromptWords

    listed = words_for(options.model)
    return PromptWords(
        styles=options.random_styles or listed.styles,
        subjects=options.random_subjects or listed.subjects,
        scenes=options.random_scenes or listed.scenes,
    )
