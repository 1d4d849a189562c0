"""How long it takes to exchange concepts in a model that is in memory, and what is left of them afterwards."""
