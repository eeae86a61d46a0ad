"""Asks a broker for what it tells those who look, on a thread, over its restarts."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from tempos.cli.api import PATIENCE, TIMEOUT, Api
from tempos.errors import TemposError, one_line

_EVENTS = "/v1/events"
#: Seconds without a step after which it is not live, beyond what steps have taken lately.
QUIET = 4.0
#: Seconds until it is asked again: first, and at most.
_AGAIN, _SELDOM = 0.25, 2.0

#: What is told: ``whole`` (the state, or a step), and the document.
Take = Callable[[bool, Mapping[str, Any]], None]


class Follower:
    """Follows what ``api`` tells. ``take`` hears it, ``trouble`` why there is nothing, both on its thread."""

    def __init__(self, api: Api, take: Take, trouble: Callable[[str], None]) -> None:
        self._api, self._take, self._trouble = api, take, trouble
        self._over = threading.Event()
        self._connection: HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name="follow the broker", daemon=True)
        #: Seconds between two steps, as they were lately.
        self.between = 1.0

    def start(self) -> None:
        """Begin; raises :class:`TemposError` where nothing can be had at all."""
        self._first = self._events()
        if (first := next(self._first, None)) is not None:
            self._take(*first)
        self._thread.start()

    def stop(self) -> None:
        """Hear nothing any more."""
        self._over.set()
        if (connection := self._connection) is not None and connection.sock is not None:
            # What is being read ends.
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        events, wait = self._first, _AGAIN
        while not self._over.is_set():
            try:
                for event in events:
                    self._take(*event)
                    wait = _AGAIN
                trouble = "the broker has ended what it told"
            except TemposError as error:
                trouble = one_line(error)
            if self._over.is_set():
                return
            self._trouble(trouble)
            self._over.wait(wait)
            wait = min(2 * wait, _SELDOM)
            events = self._events()

    def _events(self) -> Iterator[tuple[bool, Mapping[str, Any]]]:
        """What is told, from now on; raises :class:`TemposError`."""
        url = urlsplit(self._api.url)
        make = HTTPSConnection if url.scheme == "https" else HTTPConnection
        self._connection = connection = make(url.netloc, timeout=TIMEOUT)
        try:
            connection.connect()
            # The first is told of every topic.
            connection.sock.settimeout(PATIENCE)
            connection.request("GET", url.path + _EVENTS, headers=self._api.headers)
            with connection.getresponse() as answer:
                self._api.check(_EVENTS, answer)
                yield from self._told(connection, answer)
        except TimeoutError as error:
            raise self._api.no_answer(_EVENTS, "nothing is heard of it") from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._api.no_answer(_EVENTS, error) from error
        finally:
            connection.close()

    def _told(
        self, connection: HTTPConnection, answer: HTTPResponse
    ) -> Iterator[tuple[bool, Mapping[str, Any]]]:
        whole, before = False, 0.0
        while line := answer.readline():
            if line.startswith(b"event: "):
                whole = line.strip() == b"event: state"
            elif line.startswith(b"data: "):
                now = time.monotonic()
                self.between = min(5.0, now - before) if before else self.between
                before = now
                connection.sock.settimeout(QUIET + 3 * self.between)
                yield whole, json.loads(line[len(b"data: ") :])
