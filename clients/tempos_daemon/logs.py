"""Where the log of a daemon goes, how a line looks, and what becomes of floods.

A daemon logs to standard error, for people or, a JSON object a line, for machines. Of lines of one kind (the
same place in the code, the same sort of change) at most :data:`AT_ONCE` stand in :data:`WINDOW` seconds; how
many were left out is told once these are over, so that nothing that strangers do fills a disk. What is for
debugging is never left out. Processes that a daemon starts log as it does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    _Handler = logging.StreamHandler[TextIO]
else:
    _Handler = logging.StreamHandler

#: What may be asked for, the most talkative first.
LEVELS = ("debug", "info", "warning", "error")
#: How lines look; where no option says it, the variable does.
FORMATS = ("text", "json")
VARIABLE = "TEMPOS_LOG_FORMAT"
#: Lines of one kind that stand in so many seconds.
AT_ONCE, WINDOW = 100, 10.0

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: What every record has; what else one has was given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def add_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """``--log-level`` and ``--log-format``; without a ``default`` the daemon's file says the level."""
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default=default,
        help=f"how much to tell on standard error (default: {default or 'as the file says'})",
    )
    parser.add_argument(
        "--log-format",
        choices=FORMATS,
        help=f"for people, or one JSON object a line (default: ${VARIABLE}, else text)",
    )


def configure(level: str, form: str | None = None, *, who: str = "") -> None:
    """Log to standard error, from this level on, whatever the command around it logged before.

    ``who``: stands before each message. Raises nothing: an unknown format in the variable is text.
    """
    form = form or os.environ.get(VARIABLE, "")
    if form in FORMATS:
        os.environ[VARIABLE] = form
    handler = Floodgate(sys.stderr)
    text = logging.Formatter(_TEXT.replace("%(message", f"{who}%(message"))
    handler.setFormatter(_Json() if form == "json" else text)
    logging.basicConfig(force=True, level=level.upper(), handlers=[handler])


class _Json(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, process; exception, and what else was given with it."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        told = {
            "time": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        told |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        return json.dumps(told, ensure_ascii=False, default=str)


class Floodgate(_Handler):
    """Lets so many lines of a kind through, and tells of the others when the time is over, or at the end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._seen: dict[tuple[object, ...], int] = {}
        self._last: dict[tuple[object, ...], logging.LogRecord] = {}
        self._until = 0.0
        self._clock: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno <= logging.DEBUG or self._lets(record):
            super().emit(record)

    def _lets(self, record: logging.LogRecord) -> bool:
        """Whether it stands in the log; the handler's lock is held."""
        kind = (record.pathname, record.lineno, record.levelno, vars(record).get("change"))
        if (now := time.monotonic()) >= self._until:
            self._over()
            self._until = now + WINDOW
        self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._seen[kind] <= AT_ONCE:
            return True
        if self._clock is None:
            # A thread only where there is a flood; daemons count on having few.
            self._clock = threading.Timer(max(0.0, self._until - now), self._over)
            self._clock.daemon = True
            self._clock.start()
        self._last[kind] = record
        return False

    def _over(self) -> None:
        """The window is over: what was left out is told, and another one begins with the next line."""
        self.acquire()
        try:
            if self._clock is not None:
                self._clock.cancel()
            self._clock, self._until = None, 0.0
            for kind, record in self._last.items():
                more = self._seen[kind] - AT_ONCE
                words = f"{more:,} more like this in {WINDOW:g} s, the last: {record.getMessage()}"
                told = {**vars(record), "msg": words, "args": (), "exc_info": None, "left_out": more}
                super().emit(logging.makeLogRecord(told))
            self._seen.clear()
            self._last.clear()
        finally:
            self.release()

    def close(self) -> None:
        """At the end of the process (logging's own) nothing is kept back."""
        self._over()
        super().close()
