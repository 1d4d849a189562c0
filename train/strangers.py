"""The old name of `python -m train.negative_tokens`. It works for one release."""

import sys

from blocklora_jax.command_line.runner import run
from train.negative_tokens import main

if __name__ == "__main__":
    print("train.strangers is now called train.negative_tokens", file=sys.stderr)
    run(main)
