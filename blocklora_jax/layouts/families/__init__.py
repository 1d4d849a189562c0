"""The families of models: one record each, and which of them a LoRA is of."""
