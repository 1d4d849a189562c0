"""The token side through depth: `python -m benchmarks.towers`."""
