"""Who owns which slots: a small JSON file by which people who never meet train adapters that merge."""
