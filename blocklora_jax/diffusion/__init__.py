"""Noise schedules, samplers, and text to picture."""
