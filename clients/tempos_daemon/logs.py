"""Where the log of a daemon goes, and how a line looks."""

from __future__ import annotations

import logging
import sys

#: What may be asked for, the most talkative first.
LEVELS = ("debug", "info", "warning", "error")


def configure(level: str) -> None:
    """Log to standard error, from this level on, whatever the command around it logged before."""
    logging.basicConfig(
        force=True,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
