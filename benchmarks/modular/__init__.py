"""The bench: concepts trained apart, merged at once by every method, measured."""
