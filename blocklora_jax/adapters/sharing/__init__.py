"""Adapters for other people: files for other programs, the model card, and pushing to the hub."""
