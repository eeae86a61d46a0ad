"""Requests and replies: the envelope, which requests wait (both sans-IO), and a shell for either end."""
