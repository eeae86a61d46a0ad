"""Scenarios of topics themselves: many of them, and such that come and go."""
