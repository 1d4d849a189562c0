"""Which side of a weight is cut into blocks. Imports no NumPy, so that options and `--help` load quickly."""

from typing import Literal

# "in" cuts the input features, "out" the output features, "grid" both.
Axis = Literal["in", "out", "grid"]
