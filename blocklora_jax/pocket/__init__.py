"""The pocket model, and the small drawn world that it was trained on."""
