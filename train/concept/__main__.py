"""Teach a model one concept: `python -m train.concept`."""

from blocklora_jax.command_line.runner import run
from train.concept.run import main

if __name__ == "__main__":
    run(main)
