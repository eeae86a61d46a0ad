"""Journals are written to where more of them is kept: files, streams of JetStream."""
