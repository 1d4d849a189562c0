"""One question a script: `python -m benchmarks.<name>`; each prints a table and a line of JSON."""
