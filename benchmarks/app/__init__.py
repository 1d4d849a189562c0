"""The app in a real browser: through all its pages, with times and pictures; `python -m benchmarks.app`."""
