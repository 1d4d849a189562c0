"""Memory at full size, from shapes alone: `python -m benchmarks.memory`."""
