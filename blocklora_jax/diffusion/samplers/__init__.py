"""Samplers: one file each, one table."""
