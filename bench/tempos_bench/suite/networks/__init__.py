"""Scenarios of the network as it is: it changes, and strangers are in it."""
