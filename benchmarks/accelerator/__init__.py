"""Speed and memory on an accelerator, against PyTorch: `python -m benchmarks.accelerator --minutes 4`."""
