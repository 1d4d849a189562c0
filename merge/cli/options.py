"""The settings of the merge commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from blocklora_jax.command_line.options import check_options
from blocklora_jax.io.dtype_names import ModelDtype as Precision
from blocklora_jax.layouts.families.table import FamilyName as Family

Sampler = Literal["ddim", "euler", "dpmpp_2m"]


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Merge adapters into their base model at once, without training: for pictures, for a model folder, or for both.

    Other commands, `python -m merge COMMAND`, each with its own --help: info (what is in adapters), check (how much they
    disturb each other), export (a LoRA for PyTorch), fit (fit adapters without blocks to each other), convert (an
    ordinary LoRA into blocks), remove and replace (in a merged folder), plan and registry (who has which slot).
    """

    files: Positional[tuple[Path, ...]]
    """Adapter files: the adapter.safetensors of training runs."""
    weights: tuple[float, ...] = ()
    """How strongly each concept joins, one number for each file; 1 for all if not given."""
    prompt: tuple[str, ...] = ()
    """Prompts to make pictures of; concepts are called by their tokens, as in "a photo of <ada> woman on a beach"."""
    side_by_side: bool = False
    """Where a prompt calls several people or objects, each gets a strip of the picture, from left to right, in which its own
    token alone is read: they stay apart. A style is read apart from them too, over the whole picture."""
    out: Path = Path("pictures.png")
    """Where the pictures go: one PNG, a line of text under each."""
    save: Path | None = None
    """Write the merged model as a Diffusers folder, which PyTorch opens too, tokens included; or, if the name ends in
    .safetensors, as one original file for ComfyUI, A1111 and diffusers, with the tokens in files beside it."""
    model: str = "pocket"
    """The base model that the adapters were trained on: "pocket", a Diffusers folder, a single .safetensors file, or a hub id."""
    model_config: str | None = None
    """For a single file, whose configs and tokenizer it has: a Diffusers folder, a hub id, sd15, sd21, sd21-base or sdxl."""
    variant: str | None = None
    """Read the weights of this variant of the model ("fp16")."""
    negative_prompt: str = ""
    """What no picture should show."""
    seed: int = 0
    """Seeds the pictures' noise."""
    steps: int = 30
    """Calls of the U-Net a picture."""
    guidance_scale: float = 5.0
    """How far to follow the prompt beyond what the model makes without it; 1 switches guidance off."""
    sampler: Sampler = "dpmpp_2m"
    """How noise becomes a picture."""
    dtype: Precision = "float32"
    """Precision of the saved model."""
    allow_overlap: bool = False
    """Sum adapters that own the same weights (equal slots) instead of refusing them."""
    check_base: bool = True
    """Refuse a model that the adapters were not trained on; --no-check-base for a copy in bfloat16, say."""
    overwrite: bool = False
    """Replace files that are there already and that this command did not make; others in a folder stay as they are."""
    verify: bool = True
    """Refuse files that changed since they were written; --no-verify for those that were edited on purpose."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write adapters as one LoRA file for PyTorch, and each concept's token beside it.

    FILE.safetensors is for diffusers' `load_lora_weights`, FILE.<token>.safetensors for `load_textual_inversion`;
    FILE.embeddings/ holds the tokens for ComfyUI and A1111.
    """

    files: Positional[tuple[Path, ...]]
    """Adapter files: the adapter.safetensors of training runs."""
    out: Path
    """The LoRA file to write (.safetensors)."""
    layout: str = "diffusers"
    """Whose names the tensors get: "diffusers", or "kohya" for ComfyUI, A1111 and diffusers."""
    family: Family | None = None
    """The kind of model that the adapters are of, where they do not say: other programs' LoRAs of a few layers."""
    max_rank: int | None = None
    """Cut every layer's rank to this, by SVD; without it the merge is exact, and its rank the sum of all."""
    card: bool = True
    """Write a README.md beside the file, or NAME.md where there is a README.md of something else."""
    weights: tuple[float, ...] = ()
    """How strongly each concept joins, one number for each file; 1 for all if not given."""
    dtype: Precision = "float32"
    """Precision of the files."""
    allow_overlap: bool = False
    """Sum adapters that own the same weights (equal slots) instead of refusing them."""
    overwrite: bool = False
    """Replace files that are there already and that this command did not make; others in a folder stay as they are."""
    verify: bool = True
    """Refuse files that changed since they were written; --no-verify for those that were edited on purpose."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Say what is in adapter files."""

    files: Positional[tuple[Path, ...]]
    """Adapter files: the adapter.safetensors of training runs."""
    verify: bool = True
    """Refuse files that changed since they were written; --no-verify for those that were edited on purpose."""

    def __post_init__(self) -> None:
        check_options(self)
