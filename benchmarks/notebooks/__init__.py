"""Runs the notebooks in `examples/`, and makes their outputs again."""
