"""Several brokers, one bus: a fleet on loopback, what is shown of it and measured."""
