"""The options of `python -m train.basis`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocklora_jax.adapters.partition import MOST_BLOCKS
from blocklora_jax.command_line.options import check_options
from blocklora_jax.errors import UserError
from train.codeword_settings import CodewordSettings


@dataclass(frozen=True, kw_only=True)
class BasisOptions:
    """Write the eigenvectors of a model's ordinary text, for `--basis`."""

    out: Path
    """The file to write."""
    model: str = "pocket"
    """The base: "pocket", a Diffusers folder, a single file, or a hub id."""
    prompts: int = 512
    """Number of random prompts that represent ordinary text."""
    blocks: tuple[int, ...] | None = None
    """Add codewords for this number of blocks. Several numbers add several sets. If not given: no codewords."""
    extend: Path | None = None
    """Keep the directions and codewords of this basis (a file, "pocket", or "hub:OWNER/NAME"), and add what is missing:
    codewords for numbers of blocks that it has none for. Adapters that were trained with it can still be merged."""
    codewords: CodewordSettings = CodewordSettings()
    """How codewords are optimised."""
    seed: int = 0
    overwrite: bool = False
    """Replace a file that is there already."""

    def __post_init__(self) -> None:
        check_options(self)
        if wrong := [count for count in self.blocks or () if not 2 <= count <= MOST_BLOCKS]:
            raise UserError(f"--blocks {wrong[0]} must be at least 2, at most {MOST_BLOCKS}")
