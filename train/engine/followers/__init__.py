"""Programs that show a run while it goes on: TensorBoard, Weights & Biases, a notebook."""
