"""The options of `python -m merge FILES …` that all merge methods have."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blocklora_jax.diffusion.samplers.table import SAMPLERS
from blocklora_jax.io.dtype_names import ModelDtype as Precision
from merge.cli.shared_options import Files, Options, Overwrite, Variant, Verify, Weights
from merge.methods.method import NoSettings
from merge.methods.table import METHODS

# For a type checker these are texts. The command line accepts only the names in the tables.
Sampler = str if TYPE_CHECKING else Literal[tuple(SAMPLERS)]
MethodName = str if TYPE_CHECKING else Literal[tuple(METHODS)]


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Merge adapters into their base model without training: to make pictures, to write a model folder, or both."""

    files: Files
    method: MethodName = "sum"
    """The merge method; all are listed above. `--method NAME --help` shows the settings of a method."""
    weights: Weights = ()
    prompt: tuple[str, ...] = ()
    """Prompts to make pictures of. Their tokens call concepts, as in "a photo of <ada> woman on a beach"."""
    side_by_side: bool = False
    """Keep the concepts of a prompt apart. If it calls several people or objects, each gets a strip of the picture,
    from left to right, in which no other concept's token is read. A style is read over the whole picture."""
    out: Path = Path("pictures.png")
    """The file for the pictures: one PNG, with the prompt under each picture."""
    save: Path | None = None
    """Write the merged model, with its tokens, as a Diffusers folder, which PyTorch opens too. If the name ends in
    .safetensors, write one original file for ComfyUI, A1111 and diffusers, with the tokens in files beside it."""
    model: str = "pocket"
    """The base model that the adapters were trained on: "pocket", a Diffusers folder, a single .safetensors file, or a
    hub id."""
    model_config: str | None = None
    """For a single file: the source of its configs and tokenizer: a Diffusers folder, a hub id, sd15, sd21, sd21-base
    or sdxl."""
    variant: Variant = None
    negative_prompt: str = ""
    """What the pictures should not show."""
    seed: int = 0
    """Seed of the pictures' noise."""
    steps: int = 30
    """Number of sampling steps."""
    guidance_scale: float = 5.0
    """Scale of classifier-free guidance: larger values follow the prompt more closely. 1 switches guidance off."""
    sampler: Sampler = "dpmpp_2m"
    """The sampler."""
    dtype: Precision = "float32"
    """Type of the numbers in the saved model."""
    check_base: bool = True
    """Refuse a model that the adapters were not trained on; --no-check-base is for a copy, such as in bfloat16."""
    overwrite: Overwrite = False
    verify: Verify = True

    @property
    def method_settings(self) -> NoSettings:
        """The settings of the method. `merge.cli.method_flags` makes classes that read them from flags."""
        return METHODS[self.method].settings()
