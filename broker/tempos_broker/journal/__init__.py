"""Journals: the latest events of topics, in memory. The rules are in fastpath/bpf/journal.h."""
