"""The pocket model, and the little world that it was trained on."""
