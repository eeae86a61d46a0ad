"""The HTTP server of daemons, over loopback: whoever holds connections open, who asks at once is served."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority
from support.waiting import LIMIT

from tempos_daemon import http_server
from tempos_daemon.http_server import CROWDED, NO_DESCRIPTORS, SLOW, UNREAD, HttpServer, Limits

from .test_broker import until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 16 << 20


class App:
    """Answers at once, or when it is let, or with more than fits any buffer."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = 0
        self.cancelled = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        body = b"yes"
        if scope["method"] == "POST":
            message = {"more_body": True}
            while message.get("more_body") and message.get("type") != "http.disconnect":
                message = await receive()
            self.bodies.append(message.get("body", b""))
        if scope["path"] == "/late":
            try:
                await self.may_answer.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if scope["path"] == "/large":
            body = bytes(LARGE)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


#: Whether by httptools; every test is run with both.
_FAST = [False]


@pytest.fixture(autouse=True, params=["h11", "httptools"])
def protocol(request: pytest.FixtureRequest) -> None:
    if request.param == "httptools":
        pytest.importorskip("httptools")
    _FAST[0] = request.param == "httptools"


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[tuple[HttpServer, App, Counter[str]]]:
    app, refused = App(), Counter[str]()
    server = HttpServer(app, "127.0.0.1", 0, refused, Limits(**limits), fast=_FAST[0])  # type: ignore[arg-type]
    await server.start()
    try:
        yield server, app, refused
    finally:
        await server.close()


class Slow(App):
    """Has answered, and has something to do still."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(scope, receive, send)
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Client:
    """A connection with small buffers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> bytes:
        """Head and body of one."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), LIMIT)
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        return head + await asyncio.wait_for(self.reader.readexactly(length), LIMIT)

    async def ended(self, within: float = LIMIT) -> bool:
        """Read until the other side has gone."""
        try:
            while await asyncio.wait_for(self.reader.read(1 << 16), within):
                pass
        except ConnectionError:
            pass
        except asyncio.TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def connected(server: HttpServer, *, reading: bool = True) -> AsyncIterator[Client]:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
    if not reading:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    client = Client(reader, writer)
    try:
        yield client
    finally:
        client.close()


async def test_many_requests_go_by_one_connection() -> None:
    async with serving() as (server, app, refused), connected(server) as client:
        for _ in range(3):
            await client.send(GET)
            answer = await client.answer()
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"yes")
            assert b"\r\ndate: " in answer.lower()
        assert (app.asked, refused) == (3, {})


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost:", GET], ids=["silent", "half", "idle"])
async def test_who_asks_at_once_is_served_whoever_holds_all_connections(begun: bytes) -> None:
    async with serving(connections=8) as (server, _, refused), contextlib.AsyncExitStack() as stack:
        for _ in range(30):
            held = await stack.enter_async_context(connected(server))
            await held.send(begun)
        for _ in range(5):
            client = await stack.enter_async_context(connected(server))
            await client.send(GET)
            assert (await client.answer()).endswith(b"yes")
        assert len(server._connections) <= 8
        assert refused == {CROWDED: 30 + 5 - 8}


async def test_who_asks_is_served_whoever_does_not_read() -> None:
    """Who is late to read makes room, the longest first; who is being answered does not."""
    async with serving(connections=4, slow=0.05) as (server, app, _), contextlib.AsyncExitStack() as stack:
        answered = await stack.enter_async_context(connected(server))
        await answered.send(GET.replace(b"/", b"/late", 1))
        for _ in range(3):
            held = await stack.enter_async_context(connected(server, reading=False))
            await held.send(GET.replace(b"/", b"/large", 1))
        await until(lambda: sum(each.is_unread for each in server._connections) == 3)
        first = min((each for each in server._connections if each.is_unread), key=lambda each: each.since)
        client = await stack.enter_async_context(connected(server))
        await client.send(GET)
        if (answer := await client.answer()).startswith(b"HTTP/1.1 503"):
            # It was not late yet.
            await until(lambda: first.since < time.monotonic() - 0.05)
            client = await stack.enter_async_context(connected(server))
            await client.send(GET)
            answer = await client.answer()
        assert answer.endswith(b"yes")
        assert first not in server._connections
        app.may_answer.set()
        assert (await answered.answer()).endswith(b"yes")


async def test_who_asks_by_tls_is_served_whoever_holds_handshakes_open(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, authority.certify("server")))
    trusts = ssl.create_default_context(cafile=str(authority.certificate))
    async with serving(connections=8) as (server, _, refused), contextlib.AsyncExitStack() as stack:
        server.tls = context
        for number in range(30):
            held = await stack.enter_async_context(connected(server))
            # The beginning of a hello, or nothing.
            await held.send(b"\x16\x03\x01\x02\x00" * (number % 2))
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusts)
            client = Client(reader, writer)
            stack.callback(client.close)
            await client.send(GET)
            assert (await client.answer()).endswith(b"yes")
        assert len(server._connections) + len(server._joining) <= 8
        assert refused == {CROWDED: 30 + 3 - 8}


async def test_when_all_are_being_answered_one_more_is_told_so() -> None:
    async with serving(connections=2) as (server, app, refused), contextlib.AsyncExitStack() as stack:
        late = [await stack.enter_async_context(connected(server)) for _ in range(2)]
        for each in late:
            await each.send(GET.replace(b"/", b"/late", 1))
        while app.asked < 2:
            await asyncio.sleep(0)
        more = await stack.enter_async_context(connected(server))
        answer = await more.answer()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"all connections are in use" in answer
        app.may_answer.set()
        for each in late:
            assert (await each.answer()).endswith(b"yes")
        assert refused == {CROWDED: 1}


@pytest.mark.parametrize("start", [
    b"GET / HTTP/1.1\r\nX: ",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
    GET + b"GET / HTTP/1.1\r\nX: ",
], ids=["head", "body", "second head"])  # fmt: skip
async def test_a_request_that_trickles_in_is_cut_off(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "LOOK_EVERY", 0.02)
    async with serving(request=0.3, idle=60) as (server, _, refused), connected(server) as client:
        began = time.monotonic()
        await client.send(start)
        # A byte at a time, for as long as it is taken.
        while not await client.ended(0.05):
            await client.send(b"x")
            assert time.monotonic() - began < LIMIT
        assert refused == {SLOW: 1}


async def test_a_connection_that_asks_no_more_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "LOOK_EVERY", 0.02)
    async with serving(idle=0.1) as (server, _, refused), connected(server) as client:
        await client.send(GET)
        await client.answer()
        assert await client.ended()
        assert refused == {}


@pytest.mark.parametrize("asked", [1, 200], ids=["one", "pipeline"])
async def test_an_answer_that_nobody_reads_is_given_up(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "LOOK_EVERY", 0.02)
    async with serving(read=0.2) as (server, app, refused), connected(server, reading=False) as client:
        client.writer.write(GET.replace(b"/", b"/large", 1) * asked)
        while not refused:
            await asyncio.sleep(0)
        assert refused == {UNREAD: 1}
        assert app.asked <= 2, "what is behind it waits"


async def test_closing_waits_for_answers_and_for_nobody_else() -> None:
    async with contextlib.AsyncExitStack() as stack:
        server, app, refused = await stack.enter_async_context(serving(close=LIMIT))
        clients = [await stack.enter_async_context(connected(server)) for _ in range(4)]
        late, half, idle, _silent = clients
        await late.send(GET.replace(b"/", b"/late", 1))
        await half.send(b"GET / HT")
        await idle.send(GET)
        await idle.answer()
        while app.asked < 2:
            await asyncio.sleep(0)
        closing = asyncio.create_task(server.close())
        for each in clients[1:]:
            assert await each.ended()
        assert not closing.done()
        app.may_answer.set()
        assert (await late.answer()).endswith(b"yes")
        await asyncio.wait_for(closing, LIMIT)
        assert await late.ended()
        assert refused == {}


async def test_closing_ends_in_time_whatever_is_under_way(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with contextlib.AsyncExitStack() as stack:
        server, app, _ = await stack.enter_async_context(serving(close=0.1))
        never = await stack.enter_async_context(connected(server))
        await never.send(GET.replace(b"/", b"/late", 1))
        unread = await stack.enter_async_context(connected(server, reading=False))
        await unread.send(GET.replace(b"/", b"/large", 1))
        body = await stack.enter_async_context(connected(server))
        await body.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        while app.asked < 3:
            await asyncio.sleep(0)
        began, port = time.monotonic(), server.port
        await server.close()
        assert time.monotonic() - began < LIMIT / 2
        assert app.cancelled == 1
        # Who was not answered yet hears why it is not.
        for each in (never, body):
            told = await each.answer()
            assert told.startswith(b"HTTP/1.1 503 ")
            assert b"this daemon stops" in told
            assert await each.ended()
        assert "3 connections are cut off" in caplog.text
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_without_descriptors_it_rests_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REST", 0.02)
    async with serving() as (server, _, refused):
        listener = server._listener
        assert listener is not None
        asked = 0

        class Failing:
            def accept(self) -> tuple[socket.socket, Any]:
                nonlocal asked
                asked += 1
                if asked < 3:
                    raise OSError(errno.EMFILE, "Too many open files")
                return listener.accept()  # type: ignore[no-any-return]

            def __getattr__(self, name: str) -> Any:
                return getattr(listener, name)

        monkeypatch.setattr(server, "_listener", Failing())
        async with connected(server) as client:
            await client.send(GET)
            assert (await client.answer()).endswith(b"yes")
        assert refused == {NO_DESCRIPTORS: 2}


async def test_who_has_answered_when_it_closes_comes_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """Pages that are made while they are sent tidy up behind their last piece: no error of anybody's."""
    app = Slow()
    server = HttpServer(app, "127.0.0.1", 0, Counter(), fast=_FAST[0])
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(GET)
    while b"yes" not in await asyncio.wait_for(reader.read(4096), LIMIT):
        pass
    await server.close()
    writer.close()
    assert (app.asked, app.cancelled) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_is_no_http_is_counted_and_told_sparingly(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (server, app, refused):
        for number in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"\x16\x03\x01 no\r\n\r\n" if number else GET[:-2] + b"A: " + b"x" * 400_000)
            # What is not read any more is answered with a reset, behind the answer.
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), LIMIT)
                assert answer.startswith(b"HTTP/1.1 400")
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert not app.asked
        assert sum(refused.values()) == 20
        assert refused["malformed request"] >= 19
        assert len(caplog.records) <= 2


async def test_no_other_limit_ends_an_idle_connection_before_its_own() -> None:
    """uvicorn has one, too: 5 s, unless it is told otherwise."""
    async with serving(idle=30.0) as (server, _, _), connected(server) as client:
        await client.send(GET)
        await client.answer()
        (connection,) = server._connections
        timer = connection.timeout_keep_alive_task  # type: ignore[attr-defined]
        assert timer.when() - asyncio.get_running_loop().time() > 29
