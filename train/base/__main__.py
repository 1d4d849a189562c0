"""Train the pocket model: `python -m train.base`."""

from blocklora_jax.command_line.runner import run
from train.base.run import main

if __name__ == "__main__":
    run(main)
