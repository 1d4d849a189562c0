"""The commands that are killed."""
