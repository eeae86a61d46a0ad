"""Reads a large configuration in a process of its own, so that events do not wait for it.

Checking thousands of topics takes seconds, in which a thread of the broker would take turns with the event
loop; a small file takes less than starting a process. What comes back is taken in by pieces for that reason.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from tempos import ConfigError, Unavailable
from tempos._output import make_whole
from tempos_broker.config.load import parse
from tempos_broker.config.model import BrokerConfig, TopicConfig
from tempos_daemon import toml

#: Characters from which on a file is large: some 2,000 topics, which take a tenth of a second.
LARGE = 256 * 1024
#: Seconds that the process may take; a few are enough for the largest file there may be.
PATIENCE = 120.0
#: Topics in one piece of what comes back: about a millisecond.
PIECE = 256
#: What the process gives way by to the broker, which may have to share a processor with it.
NICE = 10


def alike() -> dict[str, Any]:
    """Arguments of :class:`subprocess.Popen`: the modules of here, and none from wherever the broker is."""
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    return {"cwd": "/", "env": {**os.environ, "PYTHONPATH": path}}


class Apart:
    """Reads configurations, until it is closed: a broker that stops waits for none, and leaves no process."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._changing = threading.Lock()
        self._closed = False

    def load(self, path: Path, read: Callable[[Path], bytes], *, large: int = LARGE) -> BrokerConfig:
        """As :func:`.load.load` gives it, on a thread. Raises :class:`Unavailable`, too: nobody checks it."""
        text = toml.read_text(path, read)
        if len(text) < large:
            return parse(text, str(path))
        try:
            found = self._checked(path, text.encode())
        except subprocess.SubprocessError as error:
            raise Unavailable(f"{path}: the process that checks it did not: {error}") from error
        except OSError:
            # No process is to be had; it takes longer then.
            return parse(text, str(path))
        stream = io.BytesIO(found)
        config: BrokerConfig | ConfigError | Unavailable = _piece(stream)
        if not isinstance(config, BrokerConfig):
            raise config
        topics: list[TopicConfig] = []
        while stream.tell() < len(found):
            self._unless_closed(path)
            topics += _piece(stream)
        return replace(config, topics=tuple(topics))

    def close(self) -> None:
        """End what is under way; nothing is read any more."""
        with self._changing:
            self._closed = True
            for process in self._running:
                process.kill()

    def _checked(self, path: Path, text: bytes) -> bytes:
        """What the process says."""
        command = [sys.executable, "-m", __name__, str(path)]
        with self._changing:
            self._unless_closed(path)
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **alike())
            self._running.add(process)
        try:
            with process:
                try:
                    found: bytes = process.communicate(text, PATIENCE)[0]
                except BaseException:
                    process.kill()
                    raise
        finally:
            with self._changing:
                self._running.discard(process)
        self._unless_closed(path)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return found

    def _unless_closed(self, path: Path) -> None:
        if self._closed:
            raise Unavailable(f"{path} is read no more: the broker stops")


def _piece(stream: BinaryIO) -> Any:
    return pickle.load(stream)  # noqa: S301 - of our own process


def main() -> None:
    """Check the text on the standard input; the argument stands for its file."""
    # It ends before garbage matters.
    gc.disable()
    os.nice(NICE)
    make_whole()
    try:
        config = parse(sys.stdin.buffer.read().decode(), sys.argv[1])
    except (ConfigError, Unavailable) as error:
        pickle.dump(error, sys.stdout.buffer)
        return
    pickle.dump(replace(config, topics=()), sys.stdout.buffer)
    for first in range(0, len(config.topics), PIECE):
        pickle.dump(config.topics[first : first + PIECE], sys.stdout.buffer)


if __name__ == "__main__":
    main()
