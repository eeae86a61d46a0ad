"""The Controller: one file and one API for topics, triggers, functions and the workflows made of them.

Rule: it imports ``tempos`` and ``tempos_daemon``; broker, triggers and invokers it knows by their APIs only.
"""
