"""The way to the broker: a publisher, and whether anybody is there to take what it sends.

Datagrams say nothing of where they end, so that is asked. The broker is *there* while its control port
answers for the topics of the endpoints; it is gone as soon as an event comes back because nobody listens at
its data port (on one machine the kernel says so before the next line runs, so that event is not lost), or
when the control port is silent. Once it is back every topic is asked for anew before it is published to:
another broker may have another number for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tempos import BodyError, EventTooBig, Framing, LocalError, Publisher, Reply, TemposError, Topic
from tempos._awaitables import DONE, TURN, in_time
from tempos._remarks import Remark
from tempos.errors import ControlRefused, NoAnswer, NoReply, one_line
from tempos_trigger.account import NO_BROKER, NO_TOPIC, TOO_LARGE
from tempos_trigger.model import BrokerAt

log = logging.getLogger("tempos.trigger")

NOT_ASKED = "it has not answered yet"
#: Seconds between two looks at a broker that is there, and at one that is not.
LOOK_EVERY, LOOK_AGAIN = 1.0, 0.25
#: Seconds that it has to answer: its first two repeats are within.
ANSWERS_WITHIN = 1.0
#: Seconds within which every topic is asked for once more; so many at a time at least.
ROUND, TOGETHER = 10.0, 4
#: Topics that signals name, at the most, and seconds that each is kept which nobody names any more, and
#: that it is known of one that there is none.
MOST_NAMED, KEPT, KNOWN = 1024, 60.0, 1.0
#: Seconds that a topic has to be there again which was there just now: made anew, it is another one.
MADE_ANEW = 3.0


@dataclass(frozen=True, slots=True)
class _Unknown:
    """Why there is no such topic to publish to; ``until`` then it may be one that is just made anew."""

    why: str
    until: float = field(default=0.0, compare=False)


class Link:
    """A broker, as the endpoints see it; :meth:`run` until cancelled."""

    def __init__(self, at: BrokerAt) -> None:
        self.at = at
        self.there = False
        self.why = NOT_ASKED
        self.since = time.monotonic()
        #: Events that came back from a broker too far away to say which: at least so many were lost.
        self.returned = 0
        self._topics: dict[str, Topic | _Unknown] = {}
        self._wanted: frozenset[str] = frozenset()
        # Topics that signals have named, and when one did so last.
        self._named: dict[str, float] = {}
        # Whether every topic is to be asked for at the next look.
        self._anew = False
        self._publisher: Publisher | None = None
        #: Of this publisher, as far as they are seen.
        self._refusals = 0
        self._kick = asyncio.Event()
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._remark = Remark(log, f"the broker at {self._name} is there", level=logging.INFO)

    @property
    def _name(self) -> str:
        return f"{self.at.address}:{self.at.control_port}"

    def want(self, topics: Iterable[str]) -> None:
        """The topics that are published to from now on."""
        self._wanted = frozenset(topics)
        self._topics = {name: found for name, found in self._topics.items() if self._wants(name)}
        self._anew = True
        self._kick.set()

    def need(self, topic: str) -> bool:
        """A signal names this topic, of which the broker is asked if need be; False: too many are named."""
        now = time.monotonic()
        if self._named.pop(topic, None) is None and len(self._named) >= MOST_NAMED:
            return False
        self._named[topic] = now
        if topic not in self._topics:
            self._kick.set()
        return True

    def _wants(self, name: str) -> bool:
        return name in self._wanted or name in self._named

    def why_not(self, topic: str, *, answers: bool = False) -> tuple[str, str] | None:
        """Why this topic cannot be published to now: the reason of a drop and a sentence; None: it can.

        ``topic``: "" for any. ``answers``: what is published wants one.
        """
        if not self.there:
            return NO_BROKER, self.why
        if not topic:
            return None
        found = self._topics.get(topic)
        if isinstance(found, Topic):
            if answers and found.framing is Framing.RAW:
                return (
                    NO_TOPIC,
                    f"topic {topic!r} is raw, so nobody can answer; answer = true needs event framing",
                )
            return None
        return NO_TOPIC, found.why if found else f"the broker was not asked yet for topic {topic!r}"

    def is_settling(self, topic: str) -> bool:
        """Whether what :meth:`why_not` says may be otherwise in a moment: the topic is only asked for."""
        if not self.there:
            return self.why == NOT_ASKED
        found = self._topics.get(topic)
        return found is None or (isinstance(found, _Unknown) and time.monotonic() < found.until)

    async def change(self, timeout: float | None) -> None:
        """Return when the answers of :meth:`why_not` may be others, or after so many seconds."""
        await asyncio.wait({self._changed}, timeout=timeout)

    async def settled(self, timeout: float) -> None:
        """Return when it is known of every topic whether it can be published to, or after so many seconds."""
        end = time.monotonic() + timeout
        while not (self.there and self._topics.keys() >= self._wanted) and self._wanted:
            if (left := end - time.monotonic()) <= 0:
                return
            await self.change(left)

    async def publish(self, topic: str, body: bytes) -> str | None:
        """Publish an event: None if it is on its way, else why not.

        ``no_broker`` and ``no_topic`` mean that it may be tried again.
        """
        publisher, found = self._publisher, self._current(topic)
        if not self.there or publisher is None:
            return NO_BROKER
        if not isinstance(found, Topic):
            return NO_TOPIC
        try:
            before = publisher.refusals()
            if before != self._refusals:
                # News of earlier events, from farther away.
                self.returned += before - self._refusals
                self._refusals = before
                self._is_refused(publisher)
                return NO_BROKER
            sending = publisher.publish(found, body)
            if sending is not DONE and sending is not TURN:
                # The socket is full. Otherwise it is out, whoever cancels us now.
                await sending
            self._refusals = publisher.refusals()
        except EventTooBig:
            return TOO_LARGE
        except BodyError as error:
            log.debug("%s", error)
            return TOO_LARGE
        except LocalError as error:
            self._gone(one_line(error), publisher)
            return NO_BROKER
        if self._refusals == before:
            return None
        self._is_refused(publisher)
        return NO_BROKER

    def _current(self, topic: str) -> Topic | _Unknown | None:
        """What is known of a topic, by the publisher too, which is told of changes that nobody asked for."""
        found = self._topics.get(topic)
        if self._publisher is not None and isinstance(found, Topic):
            known = self._publisher.known(topic)
            if known is not None and known != found:
                self._note(topic, known)
                return known
        return found

    async def request(self, topic: str, body: bytes, deadline: float) -> Reply:
        """Publish a request and wait for its answer; raises as :meth:`tempos.Publisher.request` does."""
        publisher, found = self._publisher, self._current(topic)
        if publisher is None or not isinstance(found, Topic):
            raise LocalError(f"the broker is not there: {self.why}")
        before = publisher.refusals()
        try:
            return await publisher.request(found, body, deadline)
        except NoReply:
            if publisher.refusals() != before:
                self._is_refused(publisher)
            raise

    def status(self) -> dict[str, Any]:
        """For people."""
        return {
            "address": self.at.address,
            "data_port": self.at.data_port,
            "control_port": self.at.control_port,
            "there": self.there,
            "why": "" if self.there else self.why,
            "since_s": round(time.monotonic() - self.since, 3),
            "returned": self.returned,
        }

    async def run(self) -> None:
        """Look after the broker until cancelled."""
        while True:
            try:
                async with self._opened() as publisher:
                    await self._watch(publisher)
            except TemposError as error:
                self._is_gone(one_line(error))
                await asyncio.sleep(LOOK_AGAIN)

    @contextlib.asynccontextmanager
    async def _opened(self) -> Any:
        at = self.at
        publisher = Publisher(
            at.address, data_port=at.data_port, control_port=at.control_port, auth=at.auth, keys=at.keys
        )
        async with publisher:
            self._publisher, self._refusals = publisher, 0
            try:
                yield publisher
            finally:
                self._publisher = None
                # A topic that is gone once the broker is back was there just now all the same.
                until = time.monotonic() + MADE_ANEW
                self._topics = {
                    name: _Unknown("asking again", until) if isinstance(found, Topic) else found
                    for name, found in self._topics.items()
                }
                if self.there:
                    self.there, self.why = False, "asking again"
                self._tell()

    async def _watch(self, publisher: Publisher) -> None:
        """Ask again and again."""
        turn = 0
        while True:
            self._kick.clear()
            names = self._due(turn)
            turn += len(names)
            # A broker that went away meanwhile, as an event has shown, is not there by an earlier answer.
            refused = publisher.refusals()
            for name in names:
                await self._ask(publisher, name)
                if publisher.refusals() != refused:
                    break
            else:
                if not names:
                    await self._ask_for_any(publisher)
                self._refusals = refused
                self._is_there()
            settling = any(map(self.is_settling, self._wanted))
            wait = LOOK_EVERY if self.there and not settling else LOOK_AGAIN
            with contextlib.suppress(asyncio.TimeoutError):
                await in_time(self._kick.wait(), wait)

    def _due(self, turn: int) -> list[str]:
        """The topics to be asked for now."""
        self._forget()
        names = sorted({*self._wanted, *self._named})
        anew, self._anew = self._anew, False
        if anew or not self.there or not names:
            return names
        unsure = [name for name in names if not isinstance(self._topics.get(name), Topic)]
        several = max(TOGETHER, round(len(names) * LOOK_EVERY / ROUND))
        return list(dict.fromkeys(unsure + [names[(turn + each) % len(names)] for each in range(several)]))

    def _forget(self) -> None:
        """Topics that nobody names any more, and those that are none: another signal may ask anew."""
        now = time.monotonic()
        for name, last in list(self._named.items()):
            found = self._topics.get(name)
            if now > last + KEPT or (isinstance(found, _Unknown) and now > found.until + KNOWN):
                del self._named[name]
                if name not in self._wanted:
                    self._topics.pop(name, None)

    async def _ask_for_any(self, publisher: Publisher) -> None:
        """See whether the broker answers, whatever it says."""
        try:
            await in_time(publisher.hello(), ANSWERS_WITHIN)
        except ControlRefused:
            return
        except (asyncio.TimeoutError, NoAnswer):
            raise self._no_answer() from None

    def _no_answer(self) -> NoAnswer:
        return NoAnswer(f"no answer from {self._name} within {ANSWERS_WITHIN:g} s")

    async def _ask(self, publisher: Publisher, name: str) -> None:
        """Ask for a topic, which may be another one than it was."""
        try:
            topic = await in_time(publisher.learn(name), ANSWERS_WITHIN)
        except ControlRefused as error:
            self._note(name, self._unknown(name, one_line(error)))
        except (asyncio.TimeoutError, NoAnswer):
            raise self._no_answer() from None
        else:
            self._note(name, topic)

    def _unknown(self, name: str, why: str) -> _Unknown:
        known = self._topics.get(name)
        until = time.monotonic() + (MADE_ANEW if isinstance(known, Topic) else 0.0)
        return _Unknown(why, known.until if isinstance(known, _Unknown) else until)

    def _note(self, name: str, found: Topic | _Unknown) -> None:
        if not self._wants(name):
            return
        known = self._topics.get(name)
        if isinstance(found, _Unknown) and found != known and name in self._wanted:
            log.warning("topic %r cannot be published to: %s", name, found.why)
        if isinstance(found, Topic) and isinstance(known, Topic) and found.id != known.id:
            log.info("topic %r is another one now: it has id %d", name, found.id)
        self._topics[name] = found
        if known != found:
            self._tell()

    def _is_there(self) -> None:
        if not self.there:
            self.there, self.why, self.since = True, "", time.monotonic()
            self._remark.gone()
            self._tell()

    def _is_refused(self, publisher: Publisher) -> None:
        self._gone(f"nobody listens at {self.at.address}:{self.at.data_port}", publisher)

    def _gone(self, why: str, publisher: Publisher) -> None:
        """An event has shown it."""
        if publisher is self._publisher:
            self._is_gone(why)
            self._kick.set()

    def _is_gone(self, why: str) -> None:
        self._remark(f"the broker is not there: {why}")
        if self.there or self.why != why:
            if self.there:
                self.since = time.monotonic()
            self.there, self.why = False, why
            self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)
