"""Repair: members that missed something have it sent again, out of the topic's journal."""
