"""Reading and writing files: bounded JSON and YAML, safetensors with digests, and what a command may write."""
