"""The command line: a runner that reports errors and signals, and code that reads flags."""
