"""Endpoints of kind ``file``: lines that are appended to files of a folder, or new files, become events.

    take = "lines"    each line of each file that matches ``pattern``, through rotation and truncation
    take = "files"    each file, once it has not changed for ``rest`` seconds; ``done = "remove"`` removes
                      those that were published. Who writes a file under a name that begins with a dot and
                      renames it is never read too early.
    start = "end"     what is there at the first start is not taken; "beginning": it is

What was published is remembered through restarts, as of the last second: each line or file is found at least
once. While there is no room for more signals nothing is read: what is in a file can wait there. What has been
read and waits for the broker is dropped when it is too old, like any signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import watchfiles

from tempos._awaitables import in_time
from tempos.errors import one_line
from tempos_daemon import kinds
from tempos_daemon.schema import Faults, Key, Keys, Kind, NotAllowed, Table
from tempos_trigger.account import STOPPED
from tempos_trigger.kind import Sink
from tempos_trigger.model import EndpointSpec
from tempos_trigger.sources import remote
from tempos_trigger.sources.folder import Files, Found, Lines, Watched
from tempos_trigger.sources.reconnecting import Reconnecting

log = logging.getLogger("tempos.trigger")
# It tells of every change.
logging.getLogger("watchfiles").setLevel(logging.WARNING)

#: Seconds between two looks where nothing tells of a change, and between two writings of what to remember.
LOOK, REMEMBER = 1.0, 1.0
#: Milliseconds that changes are gathered for.
GATHER = 20
#: Seconds that what was found has to be published when the endpoint is closed.
LAST = 1.0
MAX_LIMIT = 16 << 20


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255 or "/" in value or not value.isprintable():
        raise NotAllowed
    return value


KEYS: Keys = {
    "path": Key(kinds.matching(r"/[^\0]{0,4000}", "the path of a folder, from / on")),
    "pattern": Key(Kind('a pattern of file names, such as "*.log", without a slash', _pattern), "*"),
    "take": Key(kinds.choice("lines", "files"), "lines"),
    "start": Key(kinds.choice("end", "beginning"), "end"),
    "limit": Key(kinds.whole(1, MAX_LIMIT), 65_507),
    "rest": Key(kinds.seconds(0, 3600), 0.5),
    "done": Key(kinds.choice("keep", "remove"), "keep"),
    "body": remote.BODY,
}


class File:
    """The kind."""

    keys = KEYS

    def check(self, table: Table, faults: Faults) -> None:
        if table.get("take") == "lines" and table.get("done") == "remove":
            faults.refuse(table.at("done"), "remove", '"keep", where lines are taken')

    def claims(self, spec: EndpointSpec) -> Sequence[str]:
        return ()

    def make(self, spec: EndpointSpec, sink: Sink) -> _FileSource:
        return _FileSource(spec, sink)


class _FileSource:
    def __init__(self, spec: EndpointSpec, sink: Sink) -> None:
        self._options = spec.options
        self._sink = sink
        self._sessions = Reconnecting(f"the folder {spec.options['path']}", self._session)
        self._folder: Lines | Files | None = None
        self._pending = 0
        self._remembered: Any = None
        self._remember_at = 0.0
        self._stopping = False
        self._wake = asyncio.Event()

    async def open(self) -> None:
        return

    async def start(self) -> None:
        self._sessions.start()

    def takes(self, spec: EndpointSpec) -> bool:
        return spec.options == self._options

    def take(self, spec: EndpointSpec) -> None:
        """All that has changed is the endpoint's."""

    def status(self) -> dict[str, Any]:
        return {**self._sessions.status(), "folder": self._options["path"]}

    async def close(self) -> None:
        self._stopping = True
        end = time.monotonic() + LAST
        while self._pending and self._sink.why_not is None and time.monotonic() < end:
            await asyncio.sleep(0.005)
        await self._sessions.close()
        if self._folder is not None:
            await self._save()
            self._folder.close()
            self._folder = None

    async def _session(self, up: Callable[[], None]) -> None:
        if self._folder is None:
            memory = await asyncio.to_thread(self._sink.recall)
            self._remembered = memory
            self._folder = self._new_folder(memory)
        await self._look(self._folder)
        up()
        watch = asyncio.create_task(self._watch(), name="watch a folder")
        try:
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    await in_time(self._wake.wait(), self._next_look())
                self._wake.clear()
                if watch.done():
                    watch.result()
                    raise ConnectionError("it is watched no more")
                if not self._stopping:
                    await self._look(self._folder)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def _next_look(self) -> float:
        options = self._options
        # A file that rests is told by nobody.
        return min(LOOK, max(0.02, options["rest"])) if options["take"] == "files" else LOOK

    def _new_folder(self, memory: Any) -> Lines | Files:
        options = self._options
        watched = Watched(
            Path(options["path"]), options["pattern"], options["limit"], options["start"] == "beginning"
        )
        known = memory if isinstance(memory, dict) and options["take"] in memory else None
        if options["take"] == "lines":
            return Lines(watched, known)
        return Files(watched, options["rest"], options["done"] == "remove", known)

    async def _watch(self) -> None:
        """Wake up the look at the folder when something has changed in it."""
        changes = watchfiles.awatch(
            self._options["path"],
            watch_filter=None,
            debounce=GATHER,
            step=GATHER // 2,
            rust_timeout=500,
            recursive=False,
        )
        try:
            async for _ in changes:
                self._wake.set()
        finally:
            self._wake.set()

    async def _look(self, folder: Lines | Files) -> None:
        """Put in what is new, as far as there is room; the rest when there is."""
        room = self._sink.room
        if not room:
            self._sink.when_room(self._wake.set)
            return
        found, dropped = await asyncio.to_thread(folder.look, time.monotonic(), room)
        for reason, count in dropped.items():
            if count:
                self._sink.refuse(reason, count)
        for each in found:
            self._put(folder, each)
        if len(found) >= room:
            self._sink.when_room(self._wake.set)
        if time.monotonic() >= self._remember_at:
            await self._save()

    def _put(self, folder: Lines | Files, each: Found) -> None:
        body = each.body
        if self._options["body"] == "whole":
            body = remote.whole({"file": each.name}, body)
        self._pending += 1

        def settled(verdict: str) -> None:
            self._pending -= 1
            if verdict != STOPPED:
                folder.settle(each.mark)

        if reason := self._sink.put(body, settled):
            settled(reason)

    async def _save(self) -> None:
        """Remember what is settled, if that has changed."""
        assert self._folder is not None
        self._remember_at = time.monotonic() + REMEMBER
        memory = self._folder.memory()
        if memory == self._remembered:
            return
        try:
            await asyncio.to_thread(self._sink.remember, memory)
        except OSError as error:
            log.warning("what was read of %s is not remembered: %s", self._options["path"], one_line(error))
        else:
            self._remembered = memory
