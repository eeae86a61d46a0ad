"""Who looks at a daemon, and is told what changes: server-sent events, made once for all of them.

Rules: a step is made at most once a second while anybody looks, and rarely while nobody does; for each
viewer there is nothing to do but to hand on ready bytes, a piece at a time. So many may look at a time; one
that does not take its steps is let go (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tempos._awaitables import Bell

if TYPE_CHECKING:
    AnyLogger = logging.Logger | logging.LoggerAdapter[logging.Logger]

#: Seconds between two steps with viewers; a step takes at most this part of the time.
EVERY, SHARE = 1.0, 0.2
#: Seconds that who asks once waits for a step.
PATIENCE = 5.0
#: Viewers at a time; steps that may wait for one of them.
VIEWERS, WAITING = 16, 3
#: Bytes of a piece, about: more is not handed on in one go.
PIECE = 1 << 16

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Full(Exception):
    """There are as many viewers as there may be."""


class Viewer:
    """One who looks: steps that wait to be sent."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[Sequence[bytes]] = asyncio.Queue(WAITING)
        self.fresh = True
        self.gone = False


class Viewers:
    """Those who look.

    ``step`` makes a step and sends it; ``unseen``: seconds between two while nobody looks.
    """

    def __init__(self, step: Callable[[], Awaitable[None]], logger: AnyLogger, *, unseen: float) -> None:
        self._step = step
        self._logger = logger
        self._unseen = unseen
        self._those: set[Viewer] = set()
        self._task: asyncio.Task[None] | None = None
        self._wake = Bell()
        self._closed = False
        #: When the last step that is over began, and who waits for one.
        self._made = float("-inf")
        self._waiting: list[asyncio.Future[None]] = []
        #: Viewers that did not take their steps.
        self.let_go = 0

    def __bool__(self) -> bool:
        return bool(self._those)

    def begin(self) -> None:
        """Make steps from now on."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="feed those who look")

    async def close(self) -> None:
        """Tell nobody any more; everyone's stream ends."""
        self._closed = True
        for each in list(self._those):
            self._end(each)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self, steps: int | None = None) -> AsyncIterator[bytes]:
        """The state, then what changes: so many steps, or for ever; raises :class:`Full`."""
        if len(self._those) >= VIEWERS or self._closed:
            raise Full
        viewer = Viewer()
        self._those.add(viewer)
        self.begin()
        self._wake.set()
        return self._stream(viewer, steps)

    async def fresh(self) -> None:
        """Return once a step is over that began within the last second, so that nobody goes by an older one.

        No more steps are made for that than for a viewer. Where one takes very long, or there are none any
        more, the last one has to do.
        """
        if time.monotonic() - self._made < EVERY or self._task is None or self._task.done():
            return
        one: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(one)
        self._wake.set()
        await asyncio.wait([one], timeout=PATIENCE)

    def split(self) -> tuple[list[Viewer], list[Viewer]]:
        """Those who have had no step yet, and all others."""
        return [each for each in self._those if each.fresh], [each for each in self._those if not each.fresh]

    def send(self, viewers: Iterable[Viewer], step: Sequence[bytes]) -> None:
        """Have them told it, whose pieces these are."""
        for viewer in viewers:
            viewer.fresh = False
            if viewer.steps.full():
                self.let_go += 1
                self._end(viewer)
            else:
                viewer.steps.put_nowait(step)

    async def _stream(self, viewer: Viewer, steps: int | None) -> AsyncIterator[bytes]:
        try:
            while not (viewer.gone and viewer.steps.empty()) and steps != 0:
                for number, piece in enumerate(await viewer.steps.get()):
                    if number:
                        await asyncio.sleep(0)
                    yield piece
                steps = None if steps is None else steps - 1
        finally:
            self._those.discard(viewer)

    def _end(self, viewer: Viewer) -> None:
        viewer.gone = True
        self._those.discard(viewer)
        while not viewer.steps.empty():
            viewer.steps.get_nowait()
        viewer.steps.put_nowait((b": the end\n\n",))

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._step()
            except Exception:
                # Nobody is told then; the next one may be made.
                self._logger.exception("what viewers are told could not be made")
            self._made, waiting, self._waiting = began, self._waiting, []
            for each in waiting:
                if not each.done():
                    each.set_result(None)
            took = time.monotonic() - began
            await asyncio.sleep(max(EVERY - took, took * (1 / SHARE - 1)))
            if not self._those and not self._waiting:
                self._wake.clear()
                await self._wake.wait(self._unseen)


def encoded(value: Any) -> bytes:
    """As JSON, which has no line breaks in it."""
    return _encode(value).encode()


def event(
    name: str, at: float, fields: Mapping[str, bytes], lists: Mapping[str, Iterable[bytes]]
) -> Iterator[bytes]:
    """A server-sent event of JSON that is made already, in pieces; ``at``: Unix seconds."""
    made = [f'event: {name}\ndata: {{"at":{at:.3f}'.encode()]
    made += [b',"%s":%s' % (key.encode(), value) for key, value in fields.items()]
    size = sum(map(len, made))
    for key, values in lists.items():
        before = b',"%s":[' % key.encode()
        for value in values:
            made += (before, value)
            before = b","
            size += len(value)
            if size >= PIECE:
                yield b"".join(made)
                made, size = [], 0
        made.append(b"]" if before == b"," else before + b"]")
    yield b"".join((*made, b"}\n\n"))
