"""Many concepts on many machines: each trains its share, and takes over what others left."""
