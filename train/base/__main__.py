"""Train the pocket model: `python -m train.base`.

First draws the training pictures. Then trains CLIP, the autoencoder, the U-Net, and the judge, which is a network that
measures pictures. Each of these stages can be resumed. Writes a Diffusers folder in fp16. `--report` measures how good
a model is.
"""

from __future__ import annotations

from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from train.base.config import BaseConfig


def main() -> None:
    """The command line."""
    config = read_options(BaseConfig, description=__doc__, prog="python -m train.base")
    # JAX and Flax load here, so that --help and wrong options answer at once.
    from train.base.run import run_stages

    run_stages(config)


if __name__ == "__main__":
    run(main)
