"""What input must satisfy before it is used: names, numbers, texts, finite arrays."""
