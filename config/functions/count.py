"""Counts how often a pattern occurs in a text: the function of the example in ../platform.toml."""

from __future__ import annotations

import json


def count(body: bytes) -> bytes:
    """JSON in, ``{"text": ..., "pattern": ...}``; JSON out. What overlaps counts, too."""
    asked = json.loads(body)
    text, pattern = asked["text"], asked["pattern"]
    if not pattern:
        raise ValueError("the pattern is empty")
    found = sum(text.startswith(pattern, place) for place in range(len(text)))
    return json.dumps({"pattern": pattern, "count": found}).encode()
