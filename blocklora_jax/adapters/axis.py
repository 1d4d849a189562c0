"""Which side of a weight is cut into blocks, and who gets which.

Imports no NumPy, so that options and `--help` load quickly.
"""

from typing import Literal

# "in" cuts the input features, "out" the output features, "grid" both.
Axis = Literal["in", "out", "grid"]
# "layer" draws a slot's block for each layer anew, "text" gives a slot one block for all layers that read text.
Assignment = Literal["layer", "text"]
