"""Where things run: namespaces or hosts, how they are joined, what machine they are, whose clock is whose."""
