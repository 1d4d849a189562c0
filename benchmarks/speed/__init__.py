"""Time and memory beside PyTorch diffusers and PEFT."""
