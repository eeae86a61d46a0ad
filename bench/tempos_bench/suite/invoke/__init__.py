"""Functions behind events: the whole way from a signal to a result."""
