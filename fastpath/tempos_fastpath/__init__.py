"""The fast path: an XDP program that forwards the common case, and what loads and feeds it."""
