"""The kinds of endpoints that tempos brings, one file each, and what several of them share.

Rule: what a kind needs beyond the standard library is imported by its file alone.
"""
