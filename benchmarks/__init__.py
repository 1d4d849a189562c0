"""One question a script: `python -m benchmarks.<name>`; each prints a table and a line of JSON."""

import blocklora_jax  # noqa: F401 (its handling of signals, before the imports that take long)
