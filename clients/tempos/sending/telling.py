"""A publisher tells the broker what it has sent: while it is active once a heartbeat, and at its end.

So that what is lost on the way to the broker can be told by the broker and by who subscribes, and that a
publisher hears of it when a topic is no more, or is another one by now. Rules: no event waits for it; only
topics are told that the broker was asked for, so that a publisher that sends past it bothers nobody; a broker
that refuses or knows no such thing is left in peace for a while; at the end it may take :data:`CLOSING`
seconds and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from tempos._awaitables import in_time
from tempos._pages import Pages
from tempos._remarks import Remark
from tempos.control import Sent
from tempos.errors import ControlRefused, LocalError, NoAnswer
from tempos.sending.outlet import Outlet
from tempos.sending.outlets import Outlets
from tempos.session.link import ControlLink

#: Seconds between two tellings, until the broker says how often it wants to hear.
EVERY = 2.5
#: Seconds until a broker that refused is told again, and that the last word may take.
REFUSED, CLOSING = 60.0, 0.5
#: Of so many tellings one asks for a topic by its name: its number may be another topic's.
LOOK_EVERY = 4

_log = logging.getLogger("tempos.publisher")


class Telling:
    """Tells for one publisher over its control link. ``words``: what there is to tell of each topic.

    ``look`` sees whether a topic is still what it was, by its number; ``hear`` gets what the broker answers.
    """

    def __init__(
        self,
        publisher: int,
        words: Callable[[], Iterable[Sent]],
        look: Callable[[int], Awaitable[None]],
        hear: Callable[[Mapping[str, Any]], None] = lambda told: None,
    ) -> None:
        self.publisher = publisher
        self._words = words
        self._look = look
        self._hear = hear
        self._turn = 0
        self._told: dict[int, Sent] = {}
        #: Topics of which something was too large since the last telling.
        self._too_large: set[int] = set()
        self._every = EVERY
        self._untold = Remark(_log, "the broker is told again what was sent")
        self._task: asyncio.Task[None] | None = None

    def begin(self, link: ControlLink) -> None:
        """Tell from now on; further calls change nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(link), name="tempos publisher telling")

    def was_too_large(self, topic: int) -> None:
        """An event was refused for what members get: ask, at the next telling, whether that still holds."""
        self._too_large.add(topic)

    def begin_anew(self, topics: Outlets) -> tuple[int, list[tuple[Outlet, bytes, int]]]:
        """Another broker is told from now on, which knows nothing of what was sent: be a new publisher.

        Its number, and what waits in batches to be sent.
        """
        waiting = [(each, *each.take(self.publisher)) for each in topics.now.values() if each.bodies]
        self.publisher = int.from_bytes(os.urandom(4), "big")
        self._told.clear()
        topics.begin_anew()
        return self.publisher, waiting

    async def end(self, link: ControlLink) -> None:
        """Tell for the last time, if there is anything to tell, and stop."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(ControlRefused, NoAnswer, LocalError, asyncio.TimeoutError):
            await in_time(self._tell(link, list(self._words()), final=True), CLOSING)

    async def _run(self, link: ControlLink) -> None:
        while True:
            await asyncio.sleep(self._every)
            words = [word for word in self._words() if word != self._told.get(word.topic)]
            sizes, self._too_large = self._too_large, set()
            try:
                gone = await self._tell(link, words, final=False)
                if words:
                    self._untold.gone()
                    for topic in gone or self._in_turn(words):
                        await self._look(topic)
                for topic in sizes.difference(word.topic for word in words):
                    await self._look(topic)
            except NoAnswer as error:
                _log.debug("%s", error)
            except ControlRefused as error:
                self._untold(f"the broker is not told what was sent: {error}", level=logging.INFO)
                await asyncio.sleep(REFUSED)

    def _in_turn(self, words: Sequence[Sent]) -> list[int]:
        self._turn += 1
        turn, rest = divmod(self._turn, LOOK_EVERY)
        return [] if rest else [words[turn % len(words)].topic]

    async def _tell(self, link: ControlLink, words: list[Sent], *, final: bool) -> list[int]:
        """Tell; gives the topics of which the broker says that it has them no more."""
        gone: list[int] = []
        pages = Pages("sent", publisher=self.publisher, final=final)
        for word in words:
            pages.add("sent", word)
        for page in pages.done() if words else ():
            answer = await link.ask("sent", **page)
            self._told.update({word.topic: word for word in page["sent"]})
            every = answer.fields.get("heartbeat_ms")
            if type(every) is int and every > 0:
                self._every = every / 1000
            self._hear(answer.fields)
            told = answer.fields.get("gone")
            gone += (each for each in told if type(each) is int) if isinstance(told, list) else ()
        return gone
