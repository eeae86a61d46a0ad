"""Publisher, subscriber and admin for code without asyncio.

    from tempos.blocking import Publisher, Subscriber

    with Subscriber("10.0.1.1", "temperature") as sub:
        for event in sub:
            print(event.unpack())

The asyncio ones run on a thread of their own, so heartbeats and reading go on while the caller is busy
with something else. Rules: what the caller can be told at once is raised at once; an event is handed to
the thread without waiting for it; what waits there is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from tempos import _abi, admin, publisher, subscriber
from tempos._awaitables import DONE, in_time
from tempos._loop import Ended, LoopThread
from tempos.admin import TopicInfo, TopicRemoved
from tempos.auth import Key
from tempos.encryption import TopicKeys
from tempos.errors import LocalError, NoWay, TemposError
from tempos.model import Member, Topic
from tempos.publisher import PublisherStats
from tempos.receiving.intake import Duplicates
from tempos.receiving.replay import Start
from tempos.repair.repairer import PATIENCE
from tempos.requests.ask import TIMEOUT, Reply
from tempos.requests.core import RequestStats
from tempos.requests.tracing import WITHIN, Enough, Trace
from tempos.session import forks
from tempos.subscriber import (
    CLOSE_PATIENCE,
    DRAIN_PATIENCE,
    QUEUE,
    RECEIVE_BUFFER,
    Drained,
    Event,
    PublisherAccount,
    SubscriberStats,
)

#: Events that may wait for the publisher's thread before `publish` blocks.
WAITING = 4096
#: Seconds that an event waits at least while there is no way to the broker, for this machine's address has
#: just gone; and from one try to the next.
WAY_PATIENCE, WAY_AGAIN = 5.0, 0.05


async def _close_soon(client: publisher.Publisher | subscriber.Subscriber) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await in_time(client.close(), CLOSE_PATIENCE)


def _leave(thread: LoopThread, client: publisher.Publisher | subscriber.Subscriber) -> None:
    """Close it, if an interrupt has kept it from that, within a second; and end its thread."""
    try:
        with contextlib.suppress(Ended):
            thread.call(_close_soon, client)
    finally:
        thread.stop()


class Publisher(forks.OfOneProcess):
    """The blocking form of :class:`tempos.Publisher`; options and errors are the same.

    ``publish`` returns when the event is handed to the thread. What goes wrong after that is raised by
    the next call of ``publish``, ``flush`` or ``close``. While there is no way to the broker events wait for
    5 s, or for ``wait`` if that is longer; a close waits no longer than 5 s.
    """

    def __init__(
        self,
        broker: str | Sequence[str] = "127.0.0.1",
        *,
        data_port: int = _abi.DATA_PORT,
        control_port: int = _abi.CONTROL_PORT,
        topics: Sequence[Topic] | None = None,
        linger: float = 0,
        send_buffer: int | None = None,
        auth: Key | None = None,
        keys: TopicKeys | None = None,
        wait: float = 0,
        max_datagram: int | None = None,
        window: int | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "data_port": data_port,
            "control_port": control_port,
            "topics": topics,
            "linger": linger,
            "send_buffer": send_buffer,
            "auth": auth,
            "keys": keys,
            "wait": wait,
            "max_datagram": max_datagram,
            "window": window,
        }
        self._broker = broker
        self._patience = max(WAY_PATIENCE, math.inf if wait is True else wait)
        self._thread: LoopThread | None = None
        self._inner: publisher.Publisher | None = None
        self._waiting: deque[tuple[str | Topic, object]] = deque()
        #: On the loop: who sends, and what tells whenever it has taken what waits.
        self._sender: asyncio.Task[None] | None = None
        self._taken = asyncio.Event()
        #: Whether the sender looks again before it ends.
        self._is_awake = False
        self._error: Exception | None = None
        self._forked = False
        forks.watch(self)

    def forked(self) -> None:
        """See :mod:`tempos.session.forks`."""
        self._forked, self._thread, self._inner = True, None, None
        self._waiting.clear()

    def __enter__(self) -> Publisher:
        inner = publisher.Publisher(self._broker, **self._options)
        thread = LoopThread("tempos publisher")
        try:
            self._inner = thread.call(inner.__aenter__)
        except BaseException:
            _leave(thread, inner)
            raise
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stats(self) -> PublisherStats:
        return self._open_inner().stats

    def refusals(self) -> int:
        """How many datagrams came back so far: see :meth:`tempos.Publisher.refusals`."""
        return self._open_inner().refusals()

    def publish(self, topic: str | Topic, body: object) -> None:
        """Publish one event; waits only while the thread is far behind."""
        inner = self._open_inner()
        assert self._thread is not None
        known = inner.known(topic)
        if known is None:
            known = self._thread.call(inner.learn, str(topic))
        data = inner.check(known, body)
        self._raise_error()
        while len(self._waiting) >= WAITING:
            self._thread.call(self._make_room)
        # By its name, where that is what was given: the topic may be another one by then.
        self._waiting.append((topic, data))
        if not self._is_awake:
            self._is_awake = True
            try:
                self._thread.soon(self._wake)
            except BaseException:
                # Who is interrupted here may have told nobody.
                self._is_awake = False
                raise

    @property
    def requests(self) -> RequestStats:
        """What became of the requests."""
        return self._open_inner().requests

    def request(self, topic: str | Topic, body: object, timeout: float = TIMEOUT) -> Reply:
        """Publish a request and wait for its answer, as :meth:`tempos.Publisher.request` does.

        Several threads may do so at the same time.
        """
        inner = self._open_inner()
        assert self._thread is not None
        return self._thread.call(inner.request, topic, body, timeout)

    def trace(self, topic: str | Topic, timeout: float = WITHIN, enough: Enough | None = None) -> Trace:
        """Send a probe and gather reports, as :meth:`tempos.Publisher.trace` does.

        ``enough`` is asked in another thread.
        """
        inner = self._open_inner()
        assert self._thread is not None
        return self._thread.call(inner.trace, topic, timeout, enough)

    def flush(self) -> None:
        """Wait until everything published so far is sent."""
        inner = self._open_inner()
        assert self._thread is not None
        self._thread.call(self._until_sent)
        self._raise_error()
        self._thread.call(inner.flush)

    def confirmed(self, timeout: float | None = 10.0) -> None:
        """Wait until all is known to be at the broker, as :meth:`tempos.Publisher.confirmed` does."""
        self.flush()
        inner = self._open_inner()
        assert self._thread is not None
        self._thread.call(inner.confirmed, timeout)

    def close(self) -> None:
        """Flush and release everything; safe to call twice."""
        thread, inner = self._thread, self._inner
        if thread is None or inner is None:
            return
        self._patience = WAY_PATIENCE
        try:
            if not isinstance(inner._socket, forks.Closed):
                self.flush()
            thread.call(inner.close)
        except Ended:
            pass
        finally:
            # An interrupt on the way there leaves it to who calls this again.
            _leave(thread, inner)
            self._thread = None

    def _open_inner(self) -> publisher.Publisher:
        if self._forked:
            raise LocalError(f"this publisher {forks.WORDS}")
        if self._inner is None or self._thread is None:
            raise LocalError("this publisher is not open: use it inside 'with Publisher(...)'")
        return self._inner

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _wake(self) -> None:
        """On the loop: have what waits sent."""
        if self._sender is None:
            self._sender = asyncio.ensure_future(self._send_waiting())
            self._sender.add_done_callback(self._rest)

    def _rest(self, sender: asyncio.Task[None]) -> None:
        self._sender = None
        if not sender.cancelled() and isinstance(error := sender.exception(), Exception):
            self._error = error
        # What came since it looked last.
        self._is_awake = False
        if self._waiting and not sender.cancelled():
            self._is_awake = True
            self._wake()

    async def _make_room(self) -> None:
        self._wake()
        if len(self._waiting) >= WAITING:
            await self._taken.wait()

    async def _until_sent(self) -> None:
        if self._waiting:
            self._wake()
        while (sender := self._sender) is not None:
            await asyncio.wait({sender})

    async def _send_waiting(self) -> None:
        """On the loop: send until nothing waits."""
        assert self._inner is not None
        while self._waiting:
            events = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._taken.set()
            self._taken.clear()
            inner = self._inner
            for topic, body in events:
                try:
                    # What became of earlier ones is none of this one's.
                    inner._gathered.tell()
                except TemposError as error:
                    self._note(error)
                try:
                    if (sent := inner.publish(topic, body)) is not DONE:
                        await sent
                except NoWay:
                    await self._patiently(functools.partial(inner.publish, topic, body))
                except TemposError as error:
                    self._error = error
            await self._patiently(inner._gathered.flush)

    def _note(self, error: TemposError) -> None:
        # Where there is no way they wait.
        if not isinstance(error, NoWay):
            self._error = error

    async def _patiently(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send, and wait a while where there is no way to the broker: nobody else would try again."""
        began = 0.0
        while True:
            try:
                return await send()
            except NoWay as error:
                now = asyncio.get_running_loop().time()
                began = began or now
                if now >= began + self._patience:
                    self._error = error
                    return None
            except TemposError as error:
                self._error = error
                return None
            await asyncio.sleep(WAY_AGAIN)


class Subscriber(forks.OfOneProcess):
    """The blocking form of :class:`tempos.Subscriber`; options and errors are the same.

    ``timeout`` (seconds) ends an iteration in which no event comes for that long; None waits for ever.
    """

    def __init__(
        self,
        broker: str | Sequence[str] = "127.0.0.1",
        *topics: str | Sequence[str],
        group: str | None = None,
        control_port: int = _abi.CONTROL_PORT,
        port: int = 0,
        receive_buffer: int = RECEIVE_BUFFER,
        queue: int = QUEUE,
        duplicates: Duplicates = "deliver",
        timeout: float | None = None,
        auth: Key | None = None,
        keys: TopicKeys | None = None,
        wait: float = 0,
        start: Start | None = None,
        repair: float = PATIENCE,
        ordered: bool = False,
    ) -> None:
        self._inner = subscriber.Subscriber(
            broker,
            *topics,
            group=group,
            control_port=control_port,
            port=port,
            receive_buffer=receive_buffer,
            queue=queue,
            duplicates=duplicates,
            auth=auth,
            keys=keys,
            wait=wait,
            start=start,
            repair=repair,
            ordered=ordered,
        )
        self._inner.replies_block()
        self._timeout = timeout
        self._thread: LoopThread | None = None
        forks.watch(self)

    @classmethod
    def listen(
        cls,
        address: str,
        port: int,
        *,
        topics: Sequence[Topic],
        receive_buffer: int = RECEIVE_BUFFER,
        queue: int = QUEUE,
        duplicates: Duplicates = "deliver",
        timeout: float | None = None,
        keys: TopicKeys | None = None,
    ) -> Subscriber:
        """The blocking form of :meth:`tempos.Subscriber.listen`."""
        made = cls(address, *(topic.name for topic in topics), timeout=timeout)
        made._inner = subscriber.Subscriber.listen(
            address,
            port,
            topics=topics,
            receive_buffer=receive_buffer,
            queue=queue,
            duplicates=duplicates,
            keys=keys,
        )
        made._inner.replies_block()
        return made

    @property
    def member(self) -> Member:
        return self._inner.member

    @property
    def stats(self) -> SubscriberStats:
        return self._inner.stats

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that this is a member of, by name, as far as it knows."""
        return self._inner.topics

    @property
    def away(self) -> Mapping[str, str]:
        """The topics of which this is no member now, and why: see :class:`tempos.Subscriber`."""
        return self._inner.away

    @property
    def silence(self) -> float:
        """As that of :class:`tempos.Subscriber`."""
        return self._inner.silence

    @property
    def publishers(self) -> tuple[PublisherAccount, ...]:
        """Whose events came, and what of them was lost before the broker: see :class:`tempos.Subscriber`."""
        return self._inner.publishers

    def __enter__(self) -> Subscriber:
        thread = LoopThread("tempos subscriber")
        try:
            thread.call(self._inner.__aenter__)
        except BaseException:
            _leave(thread, self._inner)
            raise
        self._thread = thread
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._inner.finished()
        try:
            self.discard()
        finally:
            self.close()

    def forked(self) -> None:
        """See :mod:`tempos.session.forks`."""
        self._thread = None

    def __iter__(self) -> Iterator[Event]:
        with contextlib.suppress(TimeoutError):
            while True:
                yield self.next(self._timeout)

    def poll(self) -> Event | None:
        """The next event if there is one now."""
        return self._inner.poll()

    def next(self, timeout: float | None = None) -> Event:
        """The next event; raises :class:`TimeoutError` after ``timeout`` seconds without one."""
        event = self._inner.poll()
        while event is None:
            if self._thread is None:
                raise LocalError("the subscriber is closed")
            if not self._thread.call(self._inner.wait, timeout):
                raise TimeoutError(f"no event within {timeout:g} s")
            event = self._inner.poll()
        return event

    def unsubscribe(self, topic: str) -> None:
        """Leave a topic, or what a filter matches, as :meth:`tempos.Subscriber.unsubscribe` does."""
        if self._thread is None:
            self._inner.check_open()
            raise LocalError("the subscriber is closed")
        self._thread.call(self._inner.unsubscribe, topic)

    def discard(self) -> None:
        """Throw away what has arrived and all that still comes, as :meth:`tempos.Subscriber.discard` does.

        Leaving the ``with`` does it.
        """
        thread = self._thread
        if thread is not None:
            with contextlib.suppress(Ended):
                thread.call(self._discard)

    async def _discard(self) -> None:
        self._inner.discard()

    def drain(self, patience: float = DRAIN_PATIENCE) -> Drained | None:
        """Leave the groups, losing nothing, and close, as :meth:`tempos.Subscriber.drain` does.

        What arrived can still be read with :meth:`poll`.
        """
        thread = self._thread
        if thread is None:
            return None
        try:
            return thread.call(self._inner.drain, patience)
        except Ended:
            return None
        finally:
            # An interrupt on the way there leaves it to who calls this again.
            _leave(thread, self._inner)
            self._thread = None

    def close(self) -> None:
        """Leave the groups and release everything; safe to call twice."""
        self.drain(CLOSE_PATIENCE)


class Admin:
    """The blocking form of :class:`tempos.Admin`; options, answers and errors are the same."""

    def __init__(
        self, url: str | None = None, *, token: str | None = None, timeout: float = admin.TIMEOUT
    ) -> None:
        self._inner = admin.Admin(url, token=token, timeout=timeout)

    def topics(self) -> list[TopicInfo]:
        """Every topic."""
        return asyncio.run(self._inner.topics())

    def topic(self, name: str) -> TopicInfo:
        """One topic."""
        return asyncio.run(self._inner.topic(name))

    def add_topic(self, name: str, *, topic_id: int | None = None, **options: Any) -> TopicInfo:
        """Make a topic, as :meth:`tempos.Admin.add_topic` does."""
        return asyncio.run(self._inner.add_topic(name, topic_id=topic_id, **options))

    def set_topic(self, name: str, **options: Any) -> TopicInfo:
        """Change options of a topic, as :meth:`tempos.Admin.set_topic` does."""
        return asyncio.run(self._inner.set_topic(name, **options))

    def remove_topic(
        self, name: str, *, drain: bool = False, patience: float = admin.DRAIN_PATIENCE
    ) -> TopicRemoved:
        """Remove a topic, as :meth:`tempos.Admin.remove_topic` does."""
        return asyncio.run(self._inner.remove_topic(name, drain=drain, patience=patience))
