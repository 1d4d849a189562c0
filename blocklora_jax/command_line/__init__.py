"""The command line: the runner that reports errors and signals, and the reading of flags."""
