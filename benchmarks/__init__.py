"""Benchmarks. Each script answers one question: `python -m benchmarks.<name>` prints a table and a line of JSON."""

import blocklora_jax  # noqa: F401 (it sets up the handling of signals before the slow imports)
