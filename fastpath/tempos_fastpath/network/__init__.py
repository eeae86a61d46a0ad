"""The network as the fast path sees it: what there is, what it takes, and that something has changed."""
