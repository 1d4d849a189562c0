"""Small random models, folders and adapters, for tests and benchmarks."""
