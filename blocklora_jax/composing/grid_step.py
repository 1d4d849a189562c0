"""The constants of the grid of changes; see `composing.grid`."""

# q = 2^(e - DIGITS). With 22 only sums as large as the largest weight could be told; those of fifteen are larger.
DIGITS = 20
# Kernels whose weights are all smaller count as one with e = 0.
LEAST = 2.0**-64
