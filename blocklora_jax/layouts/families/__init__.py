"""The families of models: one record for each, and how to recognise the family of a LoRA."""
