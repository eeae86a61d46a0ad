"""Exports to a stream of JetStream. Each message has an id, journal and position, by which it is known again.

The place is written to a file, in whole, when the server has acknowledged a page: after a crash at most that
page is sent again; what comes twice is dropped by the server (within its window), or has the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from tempos import wire
from tempos._abi import ENVELOPE_LEN
from tempos._awaitables import in_time
from tempos._files import write_whole
from tempos.errors import LocalError, WireError, one_line
from tempos.exporting.course import Place, Record
from tempos.exporting.outlet import Away
from tempos.model import Framing

PORT = 4222
#: Seconds for a connection; for an acknowledgement.
CONNECT, ACKNOWLEDGE = 5, 10
_ERRORS = (JetStreamError, nats.errors.Error, OSError, asyncio.TimeoutError)


class StreamOutlet:
    """``to``: nats://HOST[:PORT]/STREAM[/SUBJECT]; ``file``: has the place."""

    def __init__(self, to: str, topic: str, file: Path, *, create: bool = False) -> None:
        """Raises :class:`LocalError` where ``to`` is none."""
        url = urlsplit(to)
        stream, _, subject = url.path.strip("/").partition("/")
        try:
            port = url.port or PORT
        except ValueError as error:
            raise LocalError(f"{to!r}: {error}") from error
        if url.username is not None:
            raise LocalError("others could read a password there: set $NATS_USER and $NATS_PASSWORD")
        if not url.hostname or not stream:
            raise LocalError(f"{to!r} is not of the form nats://HOST:PORT/STREAM[/SUBJECT]")
        self._server = f"{url.scheme}://{url.hostname}:{port}"
        self._stream = stream
        self._subject = subject or f"tempos.{_tokens(topic)}"
        self._what = {"topic": topic, "to": f"{self._server}/{stream}/{self._subject}"}
        self._create = create
        self._file = file
        self._lock = -1
        self._client: Client | None = None
        #: Done when the connection has ended; what was said about that.
        self._gone: asyncio.Future[None] | None = None
        self._said = ""

    async def open(self) -> Place | None:
        place = self._open_file()
        await self._connect()
        return place

    async def put(self, records: Sequence[Record]) -> None:
        client = self._client
        try:
            if client is None:
                client = await self._connect()
            context = client.jetstream(timeout=ACKNOWLEDGE)
            sending = asyncio.gather(
                *(
                    context.publish(self._subject, body, stream=self._stream, headers=headers)
                    for record in records
                    for headers, body in _messages(record)
                ),
                return_exceptions=True,
            )
            answers = await self._while_it_is_there(sending)
        except _ERRORS as error:
            await self._let_go()
            raise self._away(error) from error
        for answer in answers:
            if isinstance(answer, _ERRORS):
                await self._let_go()
                raise self._away(answer) from answer
            if isinstance(answer, BaseException):
                raise answer
        await asyncio.to_thread(self._write, records[-1].place)

    async def close(self) -> None:
        await self._let_go()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _while_it_is_there(self, sending: asyncio.Future[list[Any]]) -> list[Any]:
        assert self._gone is not None, "it is connected"
        try:
            both: set[asyncio.Future[Any]] = {sending, self._gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                return sending.result()
            raise ConnectionError(self._said or "it has ended the connection")
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            if not sending.cancelled():
                # Nobody else asks for it.
                sending.exception()

    async def _connect(self) -> Client:
        environment = os.environ.get
        self._gone, self._said = asyncio.get_running_loop().create_future(), ""
        try:
            client = await nats.connect(
                self._server,
                name="tempos export",
                # Coming back is done where all is done again.
                allow_reconnect=False,
                connect_timeout=CONNECT,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                user=environment("NATS_USER"),
                password=environment("NATS_PASSWORD"),
                token=environment("NATS_TOKEN"),
            )
        except _ERRORS as error:
            raise self._away(error) from error
        self._client = client
        try:
            context = client.jetstream(timeout=ACKNOWLEDGE)
            try:
                await context.stream_info(self._stream)
            except NotFoundError:
                if not self._create:
                    raise LocalError(
                        f"{self._server} has no stream {self._stream}: make one that takes the subject "
                        f"{self._subject}, or say --create"
                    ) from None
                await context.add_stream(name=self._stream, subjects=[self._subject])
        except _ERRORS as error:
            await self._let_go()
            raise self._away(error) from error
        except BaseException:
            await self._let_go()
            raise
        return client

    async def _on_error(self, error: Exception) -> None:
        self._said = one_line(error) or self._said

    async def _on_closed(self) -> None:
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    async def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                await in_time(client.close(), CONNECT)

    def _away(self, error: BaseException) -> Away:
        why = one_line(error) or type(error).__name__
        if self._said and isinstance(error, nats.errors.NoServersError):
            why = self._said
        return Away(f"the stream {self._stream} of {self._server} does not take {self._subject}: {why}")

    def _open_file(self) -> Place | None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{self._file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            told = json.loads(self._file.read_bytes())
            if any(told[key] != value for key, value in self._what.items()):
                raise LocalError(
                    f"{self._file} is the position of another export, {told}: choose another file"
                )
            return Place(str(told["journal"]), int(told["position"]))
        except FileNotFoundError:
            return None
        except BlockingIOError as error:
            raise LocalError(f"{self._file} belongs to an export that runs") from error
        except OSError as error:
            raise LocalError(f"{self._file} cannot be used: {one_line(error)}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LocalError(f"{self._file} has no position of an export: choose another file") from error

    def _write(self, place: Place) -> None:
        """On the disk in whole, or as it was."""
        row = {**self._what, "journal": place.journal, "position": place.position}
        try:
            write_whole(self._file, f"{json.dumps(row)}\n".encode())
        except OSError as error:
            raise LocalError(f"{self._file} cannot be written: {one_line(error)}") from error


def _tokens(topic: str) -> str:
    """A topic's name as a subject: levels are tokens."""
    clean = "".join("_" if each in ".*>" or each.isspace() else each for each in topic)
    return ".".join(level or "_" for level in clean.split("/"))


def _messages(record: Record) -> Iterator[tuple[dict[str, str], bytes]]:
    """An event as messages: a batch is one for each body."""
    row = record.row
    headers = {
        "Nats-Msg-Id": record.key,
        "Tempos-Topic": str(row["topic"]).encode("unicode_escape").decode(),
        "Tempos-Journal": record.place.journal,
        "Tempos-Position": str(record.place.position),
        "Tempos-Epoch": str(row["epoch"]),
        "Tempos-Ticket": str(row["tickets"][0]),
        "Tempos-Time": f"{row['time']:.6f}",
    }
    if "publisher" in row:
        headers["Tempos-Publisher"], headers["Tempos-Sequence"] = (
            f"{row['publisher']:08x}",
            str(row["sequence"]),
        )
    if record.missed or record.at_least:
        headers["Tempos-Missed"] = f"{record.missed}{'+' if record.at_least else ''}"
    bodies = _bodies(record)
    if len(bodies) == 1:
        yield headers, bodies[0]
        return
    for number, body in enumerate(bodies):
        each = {**headers, "Nats-Msg-Id": f"{record.key}.{number}"}
        if number:
            each.pop("Tempos-Missed", None)
        if "publisher" in row:
            each["Tempos-Sequence"] = str(row["sequence"] + number)
        yield each, body


def _bodies(record: Record) -> Sequence[bytes]:
    payload = record.payload
    if payload is None:
        # Larger than the journal keeps: it is named all the same.
        return [b""]
    try:
        if record.framing == Framing.RAW.value:
            return [payload[wire.header_len(wire.topic_in(payload), Framing.RAW) :]]
        event = wire.decode_event(payload)
        body = payload[wire.body_at(payload) :]
        if event.is_batch:
            return list(wire.split_batch(body))
        return [body[ENVELOPE_LEN:] if wire.is_request(payload) else body]
    except WireError:
        return [payload]
