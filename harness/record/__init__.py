"""What was seen, on disk."""
