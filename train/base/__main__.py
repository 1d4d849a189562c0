"""Train the pocket model: `python -m train.base`.

First draws the training pictures. Then trains CLIP, the autoencoder, the U-Net, and the judge, which is a network that
measures pictures. Each of these stages can be resumed. Writes a Diffusers folder in fp16. `--minutes 8 --gpu`
does all but the judge within eight minutes on a GPU. `--report` measures how good a model is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from train.base.config import BaseConfig, timed_config


def main() -> None:
    """The command line."""
    config = read_config(sys.argv[1:])
    # JAX and Flax load here, so that --help and wrong options answer at once.
    from train.base.run import run_stages
    from train.engine.platform import select_platform

    if config.gpu:
        select_platform(gpu=True)
    run_stages(config)


def read_config(args: Sequence[str]) -> BaseConfig:
    """The settings that the command line `args` gives. With --minutes other defaults hold."""
    is_timed = any(arg.split("=")[0] == "--minutes" for arg in args)
    defaults = {"default": timed_config(8.0)} if is_timed else {}
    return read_options(BaseConfig, args, description=__doc__, prog="python -m train.base", **defaults)


if __name__ == "__main__":
    run(main)
