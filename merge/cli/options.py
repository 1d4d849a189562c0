"""The options of `python -m merge FILES …` that every method of merging has."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blocklora_jax.diffusion.samplers.table import SAMPLERS
from blocklora_jax.io.dtype_names import ModelDtype as Precision
from merge.cli.shared_options import Files, Options, Overwrite, Variant, Verify, Weights
from merge.methods.method import NoSettings
from merge.methods.table import METHODS

# A type checker sees texts; the command line takes these texts only.
Sampler = str if TYPE_CHECKING else Literal[tuple(SAMPLERS)]
MethodName = str if TYPE_CHECKING else Literal[tuple(METHODS)]


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Merge adapters into their base model at once, without training: for pictures, for a model folder, or for both."""

    files: Files
    method: MethodName = "sum"
    """How they are merged; the methods are listed above. `--method NAME --help` shows the settings of one."""
    weights: Weights = ()
    prompt: tuple[str, ...] = ()
    """Prompts to make pictures of; concepts are called by their tokens, as in "a photo of <ada> woman on a beach"."""
    side_by_side: bool = False
    """Where a prompt calls several people or objects, each gets a strip of the picture, from left to right, in which
    its own token alone is read: they stay apart. A style is read apart from them too, over the whole picture."""
    out: Path = Path("pictures.png")
    """Where the pictures go: one PNG, a line of text under each."""
    save: Path | None = None
    """Write the merged model as a Diffusers folder, which PyTorch opens too, tokens included; or, if the name ends in
    .safetensors, as one original file for ComfyUI, A1111 and diffusers, with the tokens in files beside it."""
    model: str = "pocket"
    """The base model that the adapters were trained on: "pocket", a Diffusers folder, a single .safetensors file, or a
    hub id."""
    model_config: str | None = None
    """For a single file: where its configs and tokenizer are; a Diffusers folder, a hub id, sd15, sd21, sd21-base or
    sdxl."""
    variant: Variant = None
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
    check_base: bool = True
    """Refuse a model that the adapters were not trained on; --no-check-base for a copy in bfloat16, say."""
    overwrite: Overwrite = False
    verify: Verify = True

    @property
    def method_settings(self) -> NoSettings:
        """The settings of the method: those of its own flags, which a class of `merge.cli.method_flags` has."""
        return METHODS[self.method].settings()
