"""Gather the tokens of adapters in one file: `python -m train.strangers`."""

from blocklora_jax.command_line.runner import run
from train.concept.negative_tokens import main

if __name__ == "__main__":
    run(main)
