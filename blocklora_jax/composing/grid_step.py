"""The constants of the grid of changes; see `composing.grid`."""

# q = 2^(e - DIGITS): three fewer than the 22 at which only sums as large as the largest weight could be had back.
DIGITS = 19
# Kernels whose weights are all smaller count as one with e = 0.
LEAST = 2.0**-64
# A merged weight of fewer steps than this is off by a quarter of a step at most.
STEPS = 2.0**23
