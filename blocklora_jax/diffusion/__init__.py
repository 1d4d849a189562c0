"""Noise schedules, samplers, and making pictures from text."""
