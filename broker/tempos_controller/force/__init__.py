"""What is wanted, on disk; and bringing it into force, whole or not at all, and keeping it there."""
