"""Files of the PyTorch ecosystem."""
