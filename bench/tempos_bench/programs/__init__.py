"""What runs in the nodes: senders, receivers, members, yardsticks; each starts by `python -m`."""
