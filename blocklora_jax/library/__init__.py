"""A library: a list of the LoRA files in a folder, in a YAML file that people can edit."""
