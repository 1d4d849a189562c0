"""How far training, merging and serving many concepts scale: `python -m benchmarks.scale`."""
