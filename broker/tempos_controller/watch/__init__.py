"""The live page: what is looked at for it, what is wrong, and what changed."""
