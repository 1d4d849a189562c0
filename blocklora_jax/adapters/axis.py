"""The choices for how weights are cut into blocks, and how slots get blocks.

Does not import NumPy, so that options and `--help` load quickly.
"""

from typing import Literal

# "in" cuts the input features, "out" the output features, "grid" both.
Axis = Literal["in", "out", "grid"]
# "layer" draws a slot's block anew for each layer. "text" gives a slot the same block in all layers that read text.
Assignment = Literal["layer", "text"]
