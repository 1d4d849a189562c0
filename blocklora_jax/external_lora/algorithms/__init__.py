"""How a layer's change is computed from the parts in a file: one file for each kind of adapter."""
