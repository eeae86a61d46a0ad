"""Watches a broker as operators do: `python -m tempos_bench.programs.viewer`. Prints `ready`; ends by a line.

Its metrics are scraped every `--every` seconds, and the live page is open: who looks at it follows the stream
of changes. Both go on until a line comes; then one JSON object says how often, and how long a scrape took.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time

from tempos import API_PORT
from tempos_bench.programs.rehearsal import Asked

_PATIENCE = 60.0


class Viewer:
    """Scrapes and follows, a thread each, until told to end."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._over = threading.Event()
        self.begun = threading.Barrier(3)
        self.took: list[float] = []
        self.size = self.steps = 0

    def scrape(self) -> None:
        """Every so often, by the clock."""
        connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=_PATIENCE)
        due = time.monotonic()
        while not self._over.is_set():
            began = time.perf_counter()
            connection.request("GET", "/metrics")
            self.size = len(connection.getresponse().read())
            self.took.append(time.perf_counter() - began)
            if len(self.took) == 1:
                self.begun.wait(_PATIENCE)
            due += self._every
            self._over.wait(max(0.0, due - time.monotonic()))
        connection.close()

    def follow(self) -> None:
        """The stream of the live page."""
        connection = http.client.HTTPConnection("127.0.0.1", API_PORT, timeout=_PATIENCE)
        connection.request("GET", "/v1/events")
        answer = connection.getresponse()
        while not self._over.is_set() and (line := answer.readline()):
            self.steps += line.startswith(b"event:")
            if self.steps == 1 and line.startswith(b"event:"):
                self.begun.wait(_PATIENCE)
        connection.close()

    def end(self) -> dict[str, float]:
        """What came of it."""
        self._over.set()
        return {"scrapes": len(self.took), "slowest": max(self.took), "size": self.size, "steps": self.steps}


def planned(asked: Asked) -> dict[str, float]:
    """What a plan takes for its answer."""
    return {"scrapes": 1, "slowest": 0.01, "size": 1, "steps": 1}


def main() -> None:
    """Entry of the program."""
    parser = argparse.ArgumentParser(prog="tempos_bench.programs.viewer", description=__doc__)
    parser.add_argument("--every", type=float, required=True)
    viewer = Viewer(parser.parse_args().every)
    for work in (viewer.scrape, viewer.follow):
        threading.Thread(target=work, daemon=True).start()
    viewer.begun.wait(_PATIENCE)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(viewer.end()), flush=True)


if __name__ == "__main__":
    main()
