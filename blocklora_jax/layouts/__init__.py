"""The names that other programs use for the tensors of a model, a LoRA and a token; and the model families."""
