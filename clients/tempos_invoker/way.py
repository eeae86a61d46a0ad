"""The way of results to the broker: what comes back, for nobody was there, is sent once the broker is back.

Datagrams say nothing of where they end. But what a machine's own kernel refuses comes back at once, and that
shows a broker that is gone; it is then asked until it answers, and everything goes on by a new publisher, for
another broker may have another id for a topic's name. Topics are asked for anew now and then, too.

Rule: what waits is bounded by whoever publishes, and in time (:data:`HOLD`); then it is told as not sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable

from tempos import NoAnswer, Publisher, RemoteError, Reply, TemposError, Topic
from tempos._awaitables import DONE, TURN, in_time
from tempos._remarks import Remark
from tempos_invoker.deploy.model import BrokerAt

#: Seconds that an output waits for a broker that is gone, and between two tries to have it back.
HOLD, AGAIN = 20.0, 0.25
#: Seconds between two looks whether topics are what they were.
LOOK_EVERY = 5.0
#: Seconds that an old publisher lives on for the sake of who waits for an answer there.
LINGER = 30.0

log = logging.getLogger("tempos.invoker")


class Way:
    """Publishes to the broker ``at``, once opened."""

    def __init__(self, at: BrokerAt) -> None:
        self.at = at
        #: Events that came back, each of which was or will be sent again, or told of.
        self.returned = 0
        self._publisher: Publisher | None = None
        self._closed = False
        self._coming_back: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._topics: set[str] = set()
        self._gone = Remark(log, f"the broker at {at} is back", level=logging.INFO)

    async def open(self) -> Way:
        """Be ready to publish; raises :class:`TemposError` where there is no way to the broker at all."""
        self._publisher = await self._new_publisher()
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="topics of results")
        return self

    async def close(self) -> None:
        """Let go of everything; safe to call twice."""
        self._closed = True
        tasks = {*self._tasks, *filter(None, (self._coming_back, self._watching))}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    @property
    def is_gone(self) -> bool:
        """Whether what was sent last came back, and the broker has not answered since."""
        return self._coming_back is not None

    @property
    def publisher(self) -> Publisher:
        """By which everything goes now; raises :class:`NoAnswer` where there is none."""
        if self._publisher is None:
            raise NoAnswer(f"there is no way to the broker at {self.at}")
        return self._publisher

    async def learn(self, name: str) -> Topic:
        """What the broker says of a topic, which is published to as that from now on; raises as it does."""
        topic = await self.publisher.learn(name)
        self._topics.add(name)
        return topic

    def publish(self, topic: str, body: bytes) -> Awaitable[None]:
        """Publish; await what it returns, unless it is done. Raises as :meth:`tempos.Publisher.publish`."""
        publisher = self.publisher
        if self._coming_back is not None:
            return self._patiently(topic, body)
        if publisher.known(topic) is None:
            return self._first(topic, body)
        before = publisher.refusals()
        sending = publisher.publish(topic, body)
        if sending is not DONE and sending is not TURN:
            return sending
        if publisher.refusals() == before:
            return DONE
        self.returned += 1
        self._is_gone()
        return self._patiently(topic, body)

    async def request(self, topic: str, body: bytes, timeout: float) -> Reply:
        """Publish a request and wait for its answer; raises as :meth:`tempos.Publisher.request`."""
        if self._coming_back is not None:
            await self._back(time.monotonic() + HOLD)
        self._topics.add(topic)
        return await self.publisher.request(topic, body, timeout)

    # --- the broker is gone ------------------------------------------------------------------

    async def _first(self, topic: str, body: bytes) -> None:
        """The first event of a topic, of which the broker is asked."""
        await self.learn(topic)
        await self.publish(topic, body)

    async def _patiently(self, topic: str, body: bytes) -> None:
        end = time.monotonic() + HOLD
        while True:
            await self._back(end)
            publisher = self.publisher
            before = publisher.refusals()
            await publisher.publish(topic, body)
            if publisher.refusals() == before:
                return
            self.returned += 1
            self._is_gone()

    async def _back(self, end: float) -> None:
        """Return when the broker answers again; raises :class:`NoAnswer` at ``end``."""
        if self._coming_back is not None:
            await asyncio.wait({self._coming_back}, timeout=max(0.0, end - time.monotonic()))
        if self._coming_back is not None:
            raise NoAnswer(f"the broker at {self.at} has been gone for {HOLD:g} s: this was not sent")

    def _is_gone(self) -> None:
        if self._coming_back is None and not self._closed:
            self._gone(f"the broker at {self.at} is gone: results wait for it")
            task = asyncio.get_running_loop().create_task(self._come_back(), name="the broker is gone")
            self._coming_back = task

    async def _come_back(self) -> None:
        while True:
            with contextlib.suppress(TemposError, asyncio.TimeoutError):
                fresh = await self._new_publisher()
                try:
                    await in_time(self._answers(fresh), 1.0)
                except BaseException:
                    await fresh.close()
                    raise
                self._take(fresh)
                self._coming_back = None
                self._gone.gone()
                return
            await asyncio.sleep(AGAIN)

    @staticmethod
    async def _answers(publisher: Publisher) -> None:
        """Return if the broker answers, whatever it says."""
        try:
            await publisher.hello()
        except NoAnswer:
            raise
        except RemoteError:
            return

    # --- publishers --------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._coming_back is None:
                for name in sorted(self._topics):
                    # A topic that is gone, or a broker that does not answer, shows when it is published to.
                    with contextlib.suppress(TemposError):
                        await self.learn(name)

    async def _new_publisher(self) -> Publisher:
        at = self.at
        publisher = Publisher(
            at.address, data_port=at.data_port, control_port=at.control_port, auth=at.auth, keys=at.keys
        )
        return await publisher.__aenter__()

    def _take(self, fresh: Publisher) -> None:
        old, self._publisher = self._publisher, fresh
        if old is not None:
            task = asyncio.get_running_loop().create_task(self._linger(old))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _linger(publisher: Publisher) -> None:
        try:
            end = time.monotonic() + LINGER
            while publisher.requests.waiting and time.monotonic() < end:
                await asyncio.sleep(AGAIN)
        finally:
            await publisher.close()
