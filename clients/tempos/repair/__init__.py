"""Repair: a member has the broker send again, out of the topic's journal, what it has missed."""
