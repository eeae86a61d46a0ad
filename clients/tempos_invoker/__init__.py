"""Invokers: events become invocations of functions (the source's section Processing).

Rule: it imports ``tempos`` and ``tempos_daemon``, and nothing of another daemon.
"""
