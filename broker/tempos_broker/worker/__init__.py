"""A process of its own for strict events: what it runs, what it is told, and who keeps it alive."""
