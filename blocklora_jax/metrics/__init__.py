"""How well concepts are kept, and how much they disturb each other."""
