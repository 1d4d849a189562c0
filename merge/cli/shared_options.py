"""Options that several commands have: the type and the help of each. Each command sets its own default."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from blocklora_jax.adapters.axis import Axis
from blocklora_jax.command_line.options import check_options
from blocklora_jax.layouts.families.table import FamilyName as Family


class Options:
    """The base of all classes of options. It checks the options when all are set."""

    def __post_init__(self) -> None:
        check_options(self)


def base_model_help(relation: str) -> Any:
    """The help of `--model`. relation: the base's relation to the files, such as "that it was trained on"."""
    return tyro.conf.arg(help=f'The base model {relation}: "pocket", a Diffusers folder, or a hub id.')


Files = Positional[
    Annotated[
        tuple[Path, ...],
        tyro.conf.arg(
            help="Adapters: files (the adapter.safetensors of training runs, LoRAs of other programs), folders of "
            "them, a library.yaml of `python -m merge library scan`, or repositories on the Hugging Face hub "
            "(hub:owner/name, hub:owner/name@revision/folder/file.safetensors). All files and folders of this command "
            "may be in object stores (s3://bucket/folder, gs://…)."
        ),
    ]
]
SkipUnusable = Annotated[
    bool,
    tyro.conf.arg(help="Go on without the files that cannot be used, and name them. By default they are an error."),
]
FamilyOfFiles = Annotated[
    Family | None,
    tyro.conf.arg(help="Of the files in a folder, take only those for this family of base models."),
]
Weights = Annotated[
    tuple[float, ...],
    tyro.conf.arg(help="The weight of each concept, one number for each file. Default: 1 for all."),
]
BlockWeights = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help='Weights within the U-Net, one text for all files or one for each: 17 or 26 numbers, "1,0,0,…", for '
        "Stable Diffusion 1.x and 2.x, 12 or 20 for SDXL, in the order of sd-webui-lora-block-weight; a list of it by "
        'name, such as MIDD; or names of blocks and layers, "BASE=0.5,IN04-OUT05=0.8,attn1=0".'
    ),
]
Variant = Annotated[str | None, tyro.conf.arg(help='Read the weights of this variant of the model ("fp16").')]
Memory = Annotated[
    float | None,
    tyro.conf.arg(
        help="GiB of the device's memory to use beside the model's weights. With less, the model runs more often, on "
        "fewer prompts and layers at once. Default: 4, or a quarter of the device's memory if that is more; at most a "
        "quarter of the host's memory."
    ),
]
Overwrite = Annotated[
    bool,
    tyro.conf.arg(help="Replace existing files that this command did not make. Other files in a folder are kept."),
]
Verify = Annotated[
    bool,
    tyro.conf.arg(
        help="Refuse files that were changed after they were written; --no-verify reads files that were edited on "
        "purpose."
    ),
]
CutAxis = Annotated[
    Axis, tyro.conf.arg(help="Which features are cut into blocks: input features, output features, or both.")
]
MaxRank = Annotated[
    int,
    tyro.conf.arg(
        help="Reduce changes that are no product of small factors (DoRA, OFT, full differences and some LoKrs) to this "
        "rank, by SVD. The error is printed. Other LoRAs keep their rank."
    ),
]
PartitionSeed = Annotated[int, tyro.conf.arg(help="Seed of the assignment of slots to blocks.")]
RegistryPlace = Positional[Annotated[str, tyro.conf.arg(help="The registry: a file, a folder or a URL.")]]
ConceptName = Positional[Annotated[str, tyro.conf.arg(help="The concept's name.")]]
Convolutions = Annotated[
    Literal["keep", "drop", "refuse"],
    tyro.conf.arg(
        help="What to do with changes of 3x3 convolutions, whose inputs are not measured: keep them as they are, drop "
        "them, or refuse such LoRAs."
    ),
]
