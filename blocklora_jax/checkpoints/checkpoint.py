"""A whole model as data, independent of the kind of file that it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocklora_jax.checkpoints.model_index import model_family
from blocklora_jax.models.config import TextConfig, TextProjectionConfig, UNetConfig, VAEConfig
from blocklora_jax.prompts.tokenizer import Tokenizer
from blocklora_jax.prompts.tokenizer_pair import TokenizerPair
from blocklora_jax.storage.address import is_remote

CONFIGS = {
    "unet": UNetConfig,
    "vae": VAEConfig,
    "text_encoder": TextConfig,
    "text_encoder_2": TextProjectionConfig,
}


@dataclass(frozen=True, kw_only=True, repr=False)
class Checkpoint:
    """A Stable Diffusion model as data.

    name: the name by which the user loaded it.
    configs: by "unet", "vae", "text_encoder", and for SDXL "text_encoder_2".
    params: nested dicts by the same keys, with Flax names and layout.
    scheduler: the parsed `scheduler_config.json`.
    tokenizer, tokenizer_2: folders of the tokenizers' files.
    force_zeros_for_empty_prompt: whether SDXL's empty negative prompt has text states of zeros.
    source: the folder or file on this machine that it was read from. Saving never writes there.
    """

    name: str
    configs: Mapping[str, Any]
    params: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    tokenizer: Path
    tokenizer_2: Path | None = None
    force_zeros_for_empty_prompt: bool = True
    source: Path | None = None

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, {', '.join(self.configs)})"

    @property
    def public_name(self) -> str:
        """The name without a path, for files that are given to others: "pocket", a hub id, or a folder's name."""
        is_place = is_remote(self.name) or os.path.exists(os.path.expanduser(self.name))
        return Path(self.name).name if is_place else self.name

    @property
    def family(self) -> str:
        """The name of the model's family: "sd1", "sd2" or "sdxl"."""
        return model_family(self.configs)

    def make_tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizers by folder name. Ids of concept tokens begin after the rows of the text encoder's table."""
        pairs = {"tokenizer": ("text_encoder", self.tokenizer), "tokenizer_2": ("text_encoder_2", self.tokenizer_2)}
        return {
            name: Tokenizer(folder, self.configs[part].vocab_size, self.configs[part].max_position_embeddings)
            for name, (part, folder) in pairs.items()
            if folder is not None
        }

    def make_tokenizer(self) -> Tokenizer | TokenizerPair:
        """The tokenizer for the model. It gives ids [b, t], or [b, 2, t] for two text encoders."""
        by_name = self.make_tokenizers()
        first = by_name["tokenizer"]
        return TokenizerPair(first, by_name["tokenizer_2"]) if "tokenizer_2" in by_name else first
