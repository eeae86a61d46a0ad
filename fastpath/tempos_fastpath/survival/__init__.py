"""What a fast path leaves when its broker ends: whose it is, where it is pinned, how it is wound up."""
