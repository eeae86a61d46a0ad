"""What a publisher keeps of its topics, and tells its broker of them."""
