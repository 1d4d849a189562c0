"""Options that several verbs have: the type and the help of each. Its default stands where a verb has it."""

from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from blocklora_jax.adapters.axis import Axis
from blocklora_jax.command_line.options import check_options


class Options:
    """What the options of every verb have in common: they are checked when all are set."""

    def __post_init__(self) -> None:
        check_options(self)


def base_model_help(relation: str) -> Any:
    """The help of `--model`. relation: what the base is to the files, such as "that it was trained on"."""
    return tyro.conf.arg(help=f'The base model {relation}: "pocket", a Diffusers folder, or a hub id.')


Files = Positional[
    Annotated[tuple[Path, ...], tyro.conf.arg(help="Adapter files: the adapter.safetensors of training runs.")]
]
Weights = Annotated[
    tuple[float, ...],
    tyro.conf.arg(help="How strongly each concept joins, one number for each file; 1 for all if not given."),
]
Variant = Annotated[str | None, tyro.conf.arg(help='Read the weights of this variant of the model ("fp16").')]
Overwrite = Annotated[
    bool,
    tyro.conf.arg(
        help="Replace files that are there already and that this command did not make; others in a folder stay as they "
        "are."
    ),
]
Verify = Annotated[
    bool,
    tyro.conf.arg(
        help="Refuse files that changed since they were written; --no-verify for those that were edited on purpose."
    ),
]
CutAxis = Annotated[Axis, tyro.conf.arg(help="What is cut: input features, output features, or both.")]
PartitionSeed = Annotated[int, tyro.conf.arg(help="Seeds the assignment of slots to blocks.")]
RegistryPlace = Positional[Annotated[str, tyro.conf.arg(help="The registry: a file, a folder or a URL.")]]
ConceptName = Positional[Annotated[str, tyro.conf.arg(help="The concept's name.")]]
