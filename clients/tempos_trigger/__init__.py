"""Triggers: signals from outside become events (the source's section Bridging).

Rule: it imports ``tempos`` and ``tempos_daemon``, and nothing of another daemon; what a kind of signal
needs is imported by that kind alone.
"""
