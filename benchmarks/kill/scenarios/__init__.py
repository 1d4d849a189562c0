"""What is killed."""
