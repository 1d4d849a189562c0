"""The options of `python -m merge FILES …` that all merge methods have."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from blocklora_jax.command_line.options import flag_of
from blocklora_jax.diffusion.samplers.spacing import SPACINGS
from blocklora_jax.diffusion.samplers.table import SAMPLERS
from blocklora_jax.errors import UserError
from blocklora_jax.io.dtype_names import ModelDtype as Precision
from merge.cli.shared_options import (
    BlockWeights,
    FamilyOfFiles,
    Files,
    Options,
    Overwrite,
    SkipUnusable,
    Variant,
    Verify,
    Weights,
)
from merge.methods.method import NoSettings
from merge.methods.table import METHODS

# For a type checker these are texts. The command line accepts only the names in the tables.
Sampler = str if TYPE_CHECKING else Literal[tuple(SAMPLERS)]
Spacing = str if TYPE_CHECKING else Literal[SPACINGS]
MethodName = str if TYPE_CHECKING else Literal[tuple(METHODS)]


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Merge adapters into their base model without training: to make pictures, to write a model folder, or both."""

    files: Files
    method: MethodName = "sum"
    """The merge method; all are listed above. `--method NAME --help` shows the settings of a method."""
    weights: Weights = ()
    block_weights: BlockWeights = ()
    weight_by_step: tuple[str, ...] = ()
    """Change weights while a picture is drawn, for the sum: NAME=SHARE:FACTOR,… multiplies a concept's weight in the
    U-Net from a share of the steps on. "ada=0:0,0.3:1" leaves ada out of the first 30 % of the steps."""
    prompt: tuple[str, ...] = ()
    """Prompts to make pictures of, of any length. Their tokens call concepts, as in "a photo of <ada> woman". (word),
    (word:1.3) and [word] give words more or less weight; write \\( and \\) for plain brackets."""
    side_by_side: bool = False
    """Keep the concepts of a prompt apart. If it calls several people or objects, each gets a strip of the picture,
    from left to right, in which no other concept's token is read. A style is read over the whole picture."""
    refine: float = 0.0
    """With --side-by-side: how far each person or object may change when it is drawn again by itself, enlarged, and put
    back: 0.65 is a good value, 0 leaves it out. They become much more like themselves; each takes a picture's time."""
    out: Path = Path("pictures.png")
    """The file for the pictures: one PNG, with the prompt under each picture. Its text chunk "blocklora" says in JSON
    how to make it again."""
    count: int = 1
    """Pictures of each prompt, each from other noise."""
    strip_weights: tuple[float, ...] = ()
    """Draw each prompt once for each of these numbers, by which all --weights are multiplied, from the same noise: a
    strip, such as --strip-weights 0 0.25 0.5 0.75 1."""
    compare: bool = False
    """For each concept that a prompt calls, show it alone beside the merged model, from the same noise."""
    height: int | None = None
    """Height of the pictures in pixels. Default: the model's own size."""
    width: int | None = None
    """Width of the pictures in pixels. Default: the model's own size."""
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
    guidance_rescale: float = 0.0
    """0 to 1. Above 0, guidance keeps the contrast of the pictures. Models trained with zero terminal SNR need 0.7."""
    image: Path | None = None
    """A picture to begin with, instead of noise alone. It is cut to the size of the pictures."""
    mask: Path | None = None
    """A picture that is white where --image is drawn anew, and black where it is kept."""
    strength: float = 0.8
    """Above 0 up to 1: how far the pictures may go from --image."""
    clip_skip: int = 0
    """Number of last layers of the text encoder to leave out. A1111 counts one more: its 2 is 1 here."""
    sampler: Sampler = "dpmpp_2m"
    """The sampler. Those with _a or _sde, and ddpm and lcm, add noise in each step; lcm is for LCM models."""
    spacing: Spacing | None = None
    """Where the sampling steps lie. "DPM++ 2M Karras" is --sampler dpmpp_2m --spacing karras. Default: as the model's
    config says."""
    dtype: Precision = "float32"
    """Type of the numbers in the saved model."""
    stream: bool = False
    """With --save FOLDER: read, merge and write one tensor at a time, from disk to disk. For hundreds of adapters, or a
    model that does not fit in memory. The folder is the same, byte for byte."""
    check_base: bool = True
    """Refuse a model that the adapters were not trained on; --no-check-base is for a copy, such as in bfloat16."""
    family: FamilyOfFiles = None
    skip_unusable: SkipUnusable = False
    overwrite: Overwrite = False
    verify: Verify = True

    @property
    def method_settings(self) -> NoSettings:
        """The settings of the method. `merge.cli.method_flags` makes classes that read them from flags."""
        return METHODS[self.method].settings()


def check_picture_options(options: MergeOptions) -> None:
    """Raises UserError for options that do not go together."""
    if options.strip_weights and options.compare:
        raise UserError("--strip-weights and --compare are two kinds of grids: give one of them")
    if options.mask is not None and options.image is None:
        raise UserError("--mask says which part of a picture is drawn anew: give --image too")
    if options.refine and not options.side_by_side:
        raise UserError("--refine draws the people and objects of --side-by-side again: give that too")
    if options.refine and options.mask is not None:
        raise UserError("--refine would draw outside of the --mask too: leave out one of them")
    if options.weight_by_step and options.method != "sum":
        raise UserError(f"--weight-by-step is for --method sum, not for {options.method}")
    if options.weight_by_step and options.save is not None:
        raise UserError("--weight-by-step is for pictures: a saved model has the same weights in all steps")
    for name in ("strip_weights", "compare", "image", "weight_by_step"):
        if getattr(options, name) and not options.prompt:
            raise UserError(f"{flag_of(options, name)} shows pictures: give --prompt too")
