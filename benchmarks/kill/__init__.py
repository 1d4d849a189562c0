"""Benchmarks of what a killed process, a full disk and a signal leave behind."""
