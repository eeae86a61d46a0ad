"""Redelivery: what members that are gone were sent, and are not known to have processed, goes to others."""
