"""Converts adapters as the options of `python -m merge convert` say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blocklora_jax.adapters.adapter import Adapter
from blocklora_jax.adapters.partition import Partition
from blocklora_jax.errors import UserError
from merge.cli.convert_options import ConvertOptions, conversion_config, prompt_words
from merge.cli.convolutions import without_convolutions
from merge.cli.reading import AdapterReader

if TYPE_CHECKING:
    from blocklora_jax.pipeline import StableDiffusion
    from blocklora_jax.probing.conversion import ConversionConfig, Fit
    from blocklora_jax.prompts.random_prompts import PromptWords


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
