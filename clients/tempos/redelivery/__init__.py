"""Redelivery: a member says what it has processed, and takes what others of its group left behind."""
