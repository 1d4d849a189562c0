"""Teach a model one concept: `python -m train.concept --images DIR --token '<ada>' --class-noun woman --out runs/ada`."""

from __future__ import annotations

from blocklora_jax.command_line.runner import run
from train.concept.config import parse_args


def main() -> None:
    """The command line."""
    config = parse_args()
    # JAX and Flax load here, so that --help and wrong flags answer at once.
    from train.concept.run import train_and_report

    train_and_report(config)


if __name__ == "__main__":
    run(main)
