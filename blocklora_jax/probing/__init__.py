"""What layers read and put out while prompts are drawn: crosstalk, statistics, and conversion of external LoRAs."""
