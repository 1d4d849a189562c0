"""Reading and writing files: bounded JSON and YAML, safetensors with digests, and checks before a command writes."""
