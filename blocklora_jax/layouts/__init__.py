"""What other programs call the tensors of a model, a LoRA and a token; and the model families."""
