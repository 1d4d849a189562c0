"""The registry: a small JSON file of slots and their owners. With it, people train adapters that can be merged."""
