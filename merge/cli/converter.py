"""Converts adapters as the options of `python -m merge convert` say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.basis import TextBasis, basis_digest, codewords_digest
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.adapters.targets import reads_text
from blocklora_jax.errors import UserError
from merge.cli.convert_options import ConvertOptions, conversion_config, prompt_words
from merge.cli.convolutions import without_convolutions
from merge.cli.reading import AdapterReader

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.conversion import Fit
    from blocklora_jax.prompts.random_prompts import PromptWords

# As train.concept has by default, so that converted LoRAs merge with trained adapters.
_USUAL_BLOCKS = 64
_WITHOUT = "To convert into blocks of features instead: --basis None"


@dataclass(frozen=True)
class Converter:
    """A model, loaded once, that converts adapters as the options say. basis: of its text; None: blocks of features."""

    sd: StableDiffusion
    digest: str
    words: PromptWords
    basis: TextBasis | None
    options: ConvertOptions

    @classmethod
    def load(cls, options: ConvertOptions, partition: Partition | None = None) -> Converter:
        """Read the model that the options name, and the basis.

        partition: of a registry, which says whether there is a basis, and which.

        Raises: UserError for a basis that is missing, for another model, or not that of the partition.
        """
        # Imported here, because the model needs Flax.
        from blocklora_jax.checkpoints.digest import params_digest
        from blocklora_jax.pipeline import StableDiffusion

        # Into slots of a basis, LoRAs are converted without the U-Net.
        in_basis = options.basis is not None and (partition is None or bool(partition.basis))
        on_host = ("vae", "unet") if in_basis else ("vae",)
        sd = StableDiffusion.from_pretrained(
            options.model, variant=options.variant, verify=options.verify, on_host=on_host
        )
        digest = params_digest(sd.params)
        return cls(sd, digest, prompt_words(options), _basis(options, sd, digest, partition), options)

    def partition(self, concepts: int) -> Partition:
        """The partition of a new registry with slots for so many concepts, as the options say.

        Raises: UserError if the basis has no codewords for it.
        """
        from blocklora_jax.probing.basis_file import check_codewords

        options = self.options
        if self.basis is None:
            blocks = max(options.blocks or 16, concepts)
            return Partition(num_blocks=blocks, axis=options.axis, seed=options.partition_seed)
        known = sorted(self.basis.codewords)
        fitting = [count for count in known if count >= max(concepts, _USUAL_BLOCKS)]
        blocks = options.blocks or next(iter(fitting), max(known, default=concepts))
        check_codewords(self.basis.codewords_for(blocks), self.sd, str(options.basis))
        return Partition(num_blocks=blocks, basis=basis_digest(self.basis.directions), assignment="text")

    def codewords(self, partition: Partition) -> str:
        """The digest of the codewords of a partition, for its registry; "" if it has none."""
        return codewords_digest(self.basis.codewords_for(partition.num_blocks)) if self.basis is not None else ""

    def convert(
        self, adapter: Adapter, file: Path, partition: Partition, slots: tuple[int, ...]
    ) -> tuple[Adapter, dict[str, Fit]]:
        """The adapter in `slots`, and how well each type of layer was fitted.

        Raises: UserError for an adapter that was trained on another model, or cannot be converted.
        """
        from blocklora_jax.probing.conversion import ConversionConfig, convert
        from blocklora_jax.probing.text_conversion import convert_to_slot

        if adapter.info.base_digest not in ("", self.digest):
            raise UserError(
                f"{file} was trained on {adapter.info.base_name} ({adapter.info.base_digest[:12]}), and "
                f"{self.options.model} ({self.digest[:12]}) is another model: name the right one with --model"
            )
        info = dataclasses.replace(adapter.info, base_digest=self.digest, base_name=self.sd.checkpoint.public_name)
        adapter = _announced(dataclasses.replace(adapter, info=info), in_basis=bool(partition.basis))
        if self.options.convolutions == "drop":
            adapter = without_convolutions([adapter])[0][0]
        config = conversion_config(self.options, partition)
        if isinstance(config, ConversionConfig):
            return convert(self.sd, adapter, partition, slots, self.words, config, memory=self.options.memory)
        assert self.basis is not None
        return convert_to_slot(self.sd, adapter, partition, slots, self.basis, self.words, config)


def _basis(options: ConvertOptions, sd: StableDiffusion, digest: str, partition: Partition | None) -> TextBasis | None:
    from blocklora_jax.probing.basis_file import check_codewords, check_energies, read_text_basis

    if partition is not None and not partition.basis:
        return None
    if options.basis is None:
        if partition is not None:
            raise UserError(f"the slots of {options.registry} are blocks of a basis: give its file with --basis")
        return None
    basis = read_text_basis(options.basis, sd, digest, _WITHOUT)
    check_energies(basis, options.basis)
    if partition is not None and basis_digest(basis.directions) != partition.basis:
        raise UserError(
            f"{options.registry} is for the basis {partition.basis}, but --basis {options.basis} is"
            f" {basis_digest(basis.directions)}: use the file that the registry was made with"
        )
    if partition is not None:
        check_codewords(basis.codewords_for(partition.num_blocks), sd, options.basis)
    return basis


def _announced(adapter: Adapter, *, in_basis: bool) -> Adapter:
    """The adapter; says what of it the blocks cannot hold."""
    if adapter.vectors:
        print(f"{len(adapter.vectors)} changes of norms and biases of {adapter.name} are left out: blocks hold none")
    others = [path for path in adapter.lora.get("unet", {}) if not reads_text(f"unet/{path}")]
    if in_basis and others:
        print(f"{len(others)} layers of {adapter.name} read pictures, and are left out: the slots are blocks of text")
    return adapter


def reader_of(options: ConvertOptions, converter: Converter | None = None) -> AdapterReader:
    """Reads the files of the command. converter: has the base model in memory."""
    return AdapterReader(
        model=options.model,
        variant=options.variant,
        verify=options.verify,
        max_rank=options.max_rank,
        params=converter.sd.checkpoint.params if converter else None,
    )
