"""The leg before the broker: what a publisher sent and the journal has not is asked for, and taken once."""
