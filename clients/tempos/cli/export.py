"""``tempos export``: what comes for a topic is written where more of it is kept, out of its journal."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tempos._awaitables import in_time
from tempos.cli.answer import understood
from tempos.cli.api import Api, add_api
from tempos.cli.completion import with_topics
from tempos.cli.options import positive
from tempos.errors import ApiRefused, RemoteError
from tempos.exporting.course import Course, Record
from tempos.exporting.outlet import Away, Outlet

if TYPE_CHECKING:
    from tempos.cli.extensions import Subparsers

_EXAMPLES = """\
examples:
  tempos export temperature --to temperature.jsonl
  tempos export temperature --to nats://127.0.0.1:4222/PLANT
  tempos export temperature --to nats://127.0.0.1/PLANT/plant.temperature --once

Reads the journal that the broker keeps of a topic (`journal = N`), as `tempos tap` does, through the control
API and with its token. It goes on where it stopped, whatever was restarted in between. What the journal had
overwritten before it was read is counted, told on standard error, and stands with the event behind it.

A file gets a line of JSON for each event; its last line is the position. To rotate it, move it away.
A stream of JetStream gets a message for each event (for each body of a batch) under the subject
tempos.TOPIC, levels as tokens. The position is in a file; what a crash lets be sent twice has one
Nats-Msg-Id, by which the server drops it within its window. User, password and token come from
$NATS_USER, $NATS_PASSWORD, $NATS_TOKEN; tls://HOST:PORT/STREAM encrypts.
"""
_SCHEMES = ("nats://", "tls://")
#: Seconds before another try: twice as long each time, until that.
_FIRST, _LONGEST = 0.2, 5.0
#: Seconds that what is under way may take once this is to end.
_ENDING = 5.0


def register(subparsers: Subparsers) -> None:
    """Add ``tempos export``."""
    parser = subparsers.add_parser(
        "export",
        help="keep the events of a topic in a file or a stream of JetStream",
        description="Write the events of a topic that keeps a journal to a file or to a stream of JetStream.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    with_topics(parser.add_argument("topic", metavar="TOPIC"))
    parser.add_argument(
        "--to", metavar="WHERE", required=True, help="a file, or nats://HOST:PORT/STREAM[/SUBJECT]"
    )
    parser.add_argument("--once", action="store_true", help="end with what there is (default: go on)")
    parser.add_argument(
        "--position", metavar="FILE",
        help="of a stream: where the position is kept (default: in ~/.local/state/tempos)",
    )  # fmt: skip
    parser.add_argument("--create", action="store_true", help="make the stream if there is none")
    parser.add_argument(
        "--interval", metavar="S", type=positive, default=0.1,
        help="seconds between two looks where nothing has come (default: %(default)g)",
    )  # fmt: skip
    add_api(parser)
    parser.set_defaults(run=run, fail=parser.error)


def run(options: argparse.Namespace) -> int:
    """Export until a signal, or with ``--once`` what there is."""
    return asyncio.run(_run(options, Api.of(options), _outlet(options)))


def _outlet(options: argparse.Namespace) -> Outlet:
    if not options.to.startswith(_SCHEMES):
        if options.position is not None or options.create:
            options.fail("--position and --create are for streams: a file has its position in itself")
        from tempos.exporting.file import FileOutlet

        return FileOutlet(options.to, options.topic)
    from tempos.exporting.jetstream import StreamOutlet

    file = Path(options.position) if options.position else _usual_position(options)
    return StreamOutlet(options.to, options.topic, file, create=options.create)


def _usual_position(options: argparse.Namespace) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    name = quote(f"{options.topic} {options.to}", safe="")
    return Path(state).expanduser() / "tempos" / f"export-{name}.json"


async def _run(options: argparse.Namespace, api: Api, outlet: Outlet) -> int:
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(128 + number)

    signals = (signal.SIGINT, signal.SIGTERM)
    for each in signals:
        loop.add_signal_handler(each, stop, each)
    export = _Export(options, api, outlet, stopped)
    try:
        await export.run()
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
        await outlet.close()
        export.tell_sum()
    return stopped.result() if stopped.done() else 0


class _Export:
    """``stopped`` is done when it is to end; what it is at is done with first, unless that is away."""

    def __init__(
        self, options: argparse.Namespace, api: Api, outlet: Outlet, stopped: asyncio.Future[int]
    ) -> None:
        self._options = options
        self._api = api
        self._outlet = outlet
        self._stopped = stopped
        self._course = Course()
        self._pause = 0.0

    async def run(self) -> None:
        self._course.at = await self._outlet.open()
        began = False
        while not self._stopped.done():
            try:
                more = await self._step_or_stop()
            except (Away, RemoteError) as error:
                if not began or not _may_pass(error):
                    raise
                await self._wait(self._again(error))
                continue
            if self._pause:
                _say("goes on")
                self._pause = 0.0
            if not began:
                _say(f"{self._options.topic} is exported to {self._options.to}")
            began = True
            if not more:
                if self._options.once:
                    return
                await self._wait(self._options.interval)

    async def _step_or_stop(self) -> bool:
        """A page in whole; once this is to end, for a while only."""
        step = asyncio.ensure_future(self._step())
        both: set[asyncio.Future[Any]] = {step, self._stopped}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        try:
            return await in_time(step, _ENDING)
        except asyncio.TimeoutError:
            return False

    async def _step(self) -> bool:
        """Export a page; whether there is more already."""
        name = quote(self._options.topic, safe="")
        path = f"/v1/topics/{name}/journal?after={self._course.after}"
        page: Any = await asyncio.to_thread(self._api.get, path)
        with understood(self._options.api):
            records = self._course.records(page)
            more = bool(page["more"])
        if records is None:
            _say("the journal is another one than before: what it had that was not read is gone")
            return True
        if records:
            await self._outlet.put(records)
            self._course.done(records)
            self._tell_missed(records)
        return more

    def _again(self, error: Exception) -> float:
        if not self._pause:
            _say(f"{error}; it is tried again")
        self._pause = min(max(2 * self._pause, _FIRST), _LONGEST)
        return self._pause

    async def _wait(self, seconds: float) -> None:
        try:
            await in_time(asyncio.shield(self._stopped), seconds)
        except asyncio.TimeoutError:
            return

    def _tell_missed(self, records: list[Record]) -> None:
        missed = sum(each.missed for each in records)
        unknown = any(each.at_least for each in records)
        if missed:
            least = "at least " if unknown else ""
            _say(f"{least}{missed:,} events were gone from the journal before they were read")
        elif unknown:
            _say("nobody knows how many events were gone from the journal before they were read")

    def tell_sum(self) -> None:
        """What was done."""
        course = self._course
        least = "at least " if course.unknown else ""
        _say(f"{course.read:,} datagrams exported, {least}{course.missed:,} were gone before")


def _may_pass(error: Exception) -> bool:
    """Whether what failed may go well by itself: a restart, a journal that is just being made."""
    return not isinstance(error, ApiRefused) or error.status in (409, 429) or error.status >= 500


def _say(text: str) -> None:
    print(f"tempos export: {text}", file=sys.stderr, flush=True)
