"""Write a basis of a model's text features, for `train.concept --basis`: `python -m train.basis`.

The energy of ordinary text is concentrated in a few eigenvectors of its features. The basis holds all eigenvectors, the
strongest first. The blocks take them in turn, so that every block gets the same share of weak directions, in which a
concept's own token stands out. Blocks that are cut along the features themselves all contain strong ordinary text.
Adapters that are to be merged need the same basis file, just as they need the same `--partition-seed`.

With `--blocks` the file also gets codewords: one start token for each slot, whose text features lie in the directions
of the slot.
"""

from __future__ import annotations

from blocklora_jax.command_line.bucket_files import files_in_buckets
from blocklora_jax.command_line.options import read_options
from blocklora_jax.command_line.runner import run
from blocklora_jax.io.outputs import Output, plan_outputs
from train.basis_options import BasisOptions


@files_in_buckets()
def main() -> None:
    """The command line."""
    options = read_options(BasisOptions, description=__doc__, prog="python -m train.basis")
    inputs = [options.model, *([options.extend] if options.extend else [])]
    plan_outputs([Output(options.out, "basis")], inputs, overwrite=options.overwrite)
    # JAX and Flax load here, so that --help and wrong options answer at once.
    from train.text_basis import write_text_basis

    write_text_basis(options)


if __name__ == "__main__":
    run(main)
