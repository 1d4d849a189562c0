"""The pocket world: its concepts, its prompts and how its pictures are judged."""
