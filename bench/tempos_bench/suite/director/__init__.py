"""Scenarios of a broker that existing senders use as it is: topics by port, and collectors."""
