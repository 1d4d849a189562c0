"""Prompts: tokenizers, templates, and random prompts."""
