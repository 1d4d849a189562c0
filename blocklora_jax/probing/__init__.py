"""Inputs and outputs of layers while prompts are drawn: crosstalk, statistics, and conversion of external LoRAs."""
