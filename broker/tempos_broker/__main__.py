"""Composition root: puts configuration, fast path, broker and control API together, and runs them.

The only module of the broker that knows the fast path; whatever keeps that from working becomes a
reason in the status and in the log, never a failure of the broker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import importlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tempos_daemon.entry import leave, wait_for_configuration

if __name__ == "__main__":
    # What follows takes a while to be read.
    wait_for_configuration()

from tempos import ConfigError, Quality, TemposError, Unavailable
from tempos._output import make_whole
from tempos._rows import Rows
from tempos.errors import one_line
from tempos_broker import belongings, exposure, privileges, reader, scheduling
from tempos_broker.broker import Broker
from tempos_broker.config import load
from tempos_broker.config.model import BrokerConfig
from tempos_broker.fleet.stores import registry_of
from tempos_broker.paths import ConfiguredLimits, FastPath, Former, NoFastPath, TicketsAlone
from tempos_broker.privileges import User
from tempos_broker.reader import Read
from tempos_broker.reread import Reread
from tempos_broker.statefiles import StateFiles, open_state
from tempos_broker.tickets import CountedTickets, FileTickets
from tempos_daemon import logs, loop
from tempos_daemon.files import read_start
from tempos_daemon.last_resort import LastResort
from tempos_daemon.notify import STOPPING, notify, say
from tempos_daemon.notify import ready as ready_with
from tempos_daemon.rereading import Rereading
from tempos_daemon.signals import Signals
from tempos_daemon.token import read_token

if TYPE_CHECKING:
    from tempos_broker.api.feed import Feed
    from tempos_broker.members.watch import Neighbours
    from tempos_daemon.http_server import HttpServer
    from tempos_fastpath.survival.handles import Handle

log = logging.getLogger("tempos.broker")

#: Topics that are named where there may be thousands.
NAMED = 5
#: What the signal that stops a broker says about its fast path; None: the configuration decides.
_KEEP = {signal.SIGINT: False, signal.SIGTERM: None, signal.SIGUSR2: True, None: None}

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2


def run(options: argparse.Namespace) -> int:
    """Run a broker until SIGINT or SIGTERM. ``options``: config (path), portable, log_level, log_format."""
    logs.configure(options.log_level, options.log_format)
    signals = Signals(LastResort(EXIT_FAILED))
    signals.hold()
    # Until all is in place next to nothing becomes garbage, and looking for it among thousands of topics
    # takes a fifth of the time.
    gc.disable()
    try:
        return _run_loop(Path(options.config), signals, portable=options.portable)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, TemposError) as error:
        print(f"tempos broker: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        gc.enable()


def _run_loop(file: Path, signals: Signals, *, portable: bool) -> int:
    config = load(file)
    if _real_time(config):
        scheduling.allow(config.quality.priority_sq)
    exposure.tell(file, config)
    _tell_strangers(config.name)
    with contextlib.ExitStack() as stack:
        # Before the first thread: a thread has the privileges of the one that makes it.
        reach = _reach(stack, file, config)
        privileges.narrow(
            fast_path=config.fastpath.mode != "off" or _is_something_left(config.name, reach.pins),
            user=config.user,
            worker=_real_time(config),
        )
        if config.user:
            privileges.require_readable()
        return _serve_on_a_loop(config, signals, portable=portable, file=file, reach=reach)


@dataclass(frozen=True, slots=True)
class Reach:
    """What this process reaches beyond its rights, once it has given them up.

    ``read`` gives the bytes of the files that the configuration names, and its own. ``pins``: by which those
    of a fast path are reached; None: by their usual place.
    """

    read: Read = read_start
    pins: Handle | None = None


def _reach(stack: contextlib.ExitStack, file: Path, config: BrokerConfig) -> Reach:
    """Make ready for whoever the broker is about to be, while it is root; it ends with ``stack``."""
    user = privileges.user_to_be(config.user)
    if user is None:
        return Reach()
    if config.state.file == "" or config.fastpath.mode != "off" or _is_something_left(config.name, None):
        # With it its lock, and not while a living broker has that: neither are its pins another's.
        belongings.give(config.name, user)
    pins = _give_pins(config, user)
    if pins is not None:
        stack.callback(pins.close)
    paths = [file, *([Path(config.api_token_file)] if config.api_token_file else [])]
    read: Read = read_start
    with contextlib.suppress(FileNotFoundError):
        # What is not there is told by who wants it.
        if reader.is_needed(paths, user):
            started = reader.start(paths, user)
            stack.callback(started.close)
            read = started.read
    return Reach(read, pins if user.uid else None)


def _give_pins(config: BrokerConfig, user: User) -> Handle | None:
    """Give what is pinned of this name to who the broker will be; None where there is nothing of it."""
    make = config.fastpath.mode != "off" and config.fastpath.pin
    try:
        from tempos_fastpath.survival.handles import give

        return give(config.name, user.uid, user.gid, make=make)
    except ImportError:
        return None
    except Unavailable as error:
        log.warning("the fast path cannot outlive the broker: %s", one_line(error))
        return None


def _serve_on_a_loop(
    config: BrokerConfig, signals: Signals, *, portable: bool, file: Path, reach: Reach
) -> int:
    serving = serve(config, signals, portable=portable, file=file, give_up=True, reach=reach)
    loop.run(serving, signals)
    return EXIT_OK


def _real_time(config: BrokerConfig) -> bool:
    return config.quality.worker_sq and config.quality.priority_sq > 0


async def serve(
    config: BrokerConfig,
    signals: Signals,
    *,
    portable: bool = False,
    file: Path | None = None,
    give_up: bool = False,
    reach: Reach | None = None,
) -> None:
    """Serve until a signal to stop; prints the ``ready`` line once everything is in place.

    ``file``: what to load again on SIGHUP. ``give_up``: this process gives up, for good, the privileges
    that only the start needed. ``reach``: beyond what it has without them.
    """
    reach = Reach() if reach is None else reach
    signals.attach()
    async with contextlib.AsyncExitStack() as stack:
        ready = await signals.unless_stopped(_start(stack, config, signals, portable, file, reach))
        if ready is None:
            return
        broker, where, rereading = ready
        if give_up:
            kept = _real_time(config) and not scheduling.is_allowed(config.quality.priority_sq)
            left = privileges.finish(fast_path=broker.has_fast_path, worker=kept)
            log.info("privileges: %s", left.reason)
        # What there is now stays, thousands of topics it may be: garbage need not be looked for in it while
        # events wait.
        gc.freeze()
        gc.enable()
        broker.stand()
        words = f"{broker.describe()}; {where}"
        say(f"ready: {words}")
        notify(ready_with(words))
        signals.reload_with(rereading.on_signal)
        await signals.wait()
        notify(STOPPING)
        broker.about_to_close(keep=_KEEP[signals.stopped_by])


def _stays(topics: Sequence[str], name: str) -> str:
    """What to know about a fast path that is left to the next broker."""
    more = f" and {len(topics) - NAMED} more" if len(topics) > NAMED else ""
    goes_on = (
        f"the kernel goes on with {', '.join(topics[:NAMED])}{more}" if topics else "the fast path stays"
    )
    return (
        f"stopping: {goes_on} for the next broker named {name!r}; where none is to come, end that by: "
        f"tempos fastpath clean {shlex.quote(name)}"
    )


async def _start(
    stack: contextlib.AsyncExitStack,
    config: BrokerConfig,
    signals: Signals,
    portable: bool,
    file: Path | None,
    reach: Reach,
) -> tuple[Broker, str, Rereading]:
    """Start everything, to be stopped in reverse with ``stack``; gives where the control API is, too."""

    def at_the_end(name: str, work: Callable[[], Awaitable[object]]) -> None:
        stack.push_async_callback(signals.step, name, work)

    rows = Rows(config.limits.topics)
    state = await open_state(config, rows)
    if state is not None:
        at_the_end("closing the state files", state.close)
    tickets = _tickets(stack, config, state, rows)
    fast, _ = await asyncio.gather(prepare_fast_path(config, rows, tickets, reach.pins), _import_api(config))
    at_the_end("detaching the fast path", fast.close)
    drawn, elsewhere = None, []
    if state is not None and not isinstance(fast, NoFastPath):
        drawn = CountedTickets(fast.tickets, state.slow)
        elsewhere.append(TicketsAlone(state.tickets))
    store = state.store if state is not None else None
    broker = Broker(
        config, fast, portable=portable, store=store, drawn=drawn, elsewhere=elsewhere, rows=rows,
        neighbours=_neighbours(config), registry=registry_of(config.fleet),
    )  # fmt: skip

    async def close() -> None:
        # Also where it was told to stop before anybody could see it ready.
        broker.about_to_close(keep=_KEEP[signals.stopped_by])
        if signals.stopping and (topics := broker.kept()) is not None:
            say(_stays(topics, config.name))
        await broker.close()

    at_the_end("closing the broker", close)
    reread = Reread(broker, file, reach.read)
    reread.check()
    rereading = Rereading(reread.reload)
    at_the_end("reloading", rereading.close)
    server, feed, where = _bind_api(config, broker, reread.reload, reach.read)
    if server is not None:
        at_the_end("closing the control API", server.close)
    if feed is not None:
        at_the_end("ending what viewers are told", feed.close)
    # Last of all that may fail: it takes over what an earlier broker left.
    await broker.start()
    if state is not None:
        state.rest()
    if server is not None:
        await server.start()
    if feed is not None:
        feed.begin()
    # First of all as it stops: who asked for a reload waits with a request, and with a thread.
    stack.callback(reread.close)
    return broker, where, rereading


def _neighbours(config: BrokerConfig) -> Neighbours | None:
    """What knows who is next on the way to members; None where the kernel cannot be asked for that."""
    if sys.platform != "linux":
        return None
    from tempos_fastpath.network.neighbours import KernelNeighbours

    return KernelNeighbours(config.data_port, {config.quality.dscp(quality) << 2 for quality in Quality})


def _tickets(
    stack: contextlib.AsyncExitStack, config: BrokerConfig, state: StateFiles | None, rows: Rows
) -> FileTickets | None:
    """Ticket counters for where there is no fast path; None: those of this process alone will do."""
    if state is not None:
        return state.tickets
    if not config.quality.worker_sq or not hasattr(os, "memfd_create"):
        return None
    tickets = FileTickets(None, rows)
    stack.callback(tickets.close)
    return tickets


async def prepare_fast_path(
    config: BrokerConfig,
    rows: Rows,
    tickets: FileTickets | None = None,
    pins: Handle | None = None,
) -> FastPath:
    """The fast path of this machine, or a stand-in that says why there is none, with these ``tickets``.

    ``rows``: where topics stand in the tables of either.

    ``pins``: by which those are reached. Neither touches yet what an earlier broker left.
    """
    limits = _shared_limits(rows) if config.quality.worker_sq else None
    if config.fastpath.mode == "off":
        former = await _find_former(config.name, pins)
        return NoFastPath("switched off in the configuration", tickets, limits, former)
    try:
        from tempos_fastpath.starting import prepare

        return await prepare(
            listen=config.listen,
            port=config.data_port,
            mode=config.fastpath.mode,
            interfaces=config.fastpath.interfaces,
            name=config.name,
            pin=config.fastpath.pin,
            when_gone=config.fastpath.when_gone,
            gone_after=config.fastpath.gone_after,
            tos={quality: config.quality.dscp(quality) << 2 for quality in Quality},
            latency=config.fastpath.latency,
            reverse_path=config.fastpath.reverse_path,
            held=pins,
            rows=rows,
        )
    except Unavailable as error:
        # Before the ImportError that it may be as well: what a build left out says so itself.
        reason = one_line(error)
    except ImportError as error:
        reason = f"tempos[fastpath] is not installed ({one_line(error)})"
    log.warning("no fast path: %s", reason)
    return NoFastPath(reason, tickets, limits, await _find_former(config.name, pins))


async def _find_former(name: str, pins: Handle | None) -> Former | None:
    """What an earlier broker of this name left in the kernel; where it cannot be taken off, that is told."""
    if not _is_something_left(name, pins):
        return None
    find: Callable[[str, Handle | None], Former | None]
    try:
        from tempos_fastpath.survival.remains import find
    except ImportError:
        from tempos_fastpath.survival.unread import find
    try:
        return await asyncio.get_running_loop().run_in_executor(None, find, name, pins)
    except Unavailable as error:
        log.warning("%s", one_line(error))
        return None


def _is_something_left(name: str, pins: Handle | None) -> bool:
    """Whether a broker of this name left a fast path in this network namespace, as far as can be told."""
    try:
        from tempos_fastpath.survival.ownership import is_something_left
    except ImportError:
        return False
    return is_something_left(name, pins.folder if pins is not None else None)


def _tell_strangers(name: str) -> None:
    """Say what other dead brokers left that forwards past this one; with every privilege there is."""
    try:
        from tempos_fastpath.survival.ownership import ROOT

        if not any(ROOT.glob("*/*")):
            return
        from tempos_fastpath.survival.orphans import strangers

        for line in strangers(name):
            log.warning("%s", line)
    except (ImportError, OSError, Unavailable) as error:
        log.debug("what other brokers left is not looked at: %s", error)


def _shared_limits(rows: Rows) -> ConfiguredLimits | None:
    """Token buckets for two processes; None where memory cannot be shared, which the status will say."""
    try:
        from tempos_broker.shared import SharedRates, anonymous
    except ImportError:
        return None
    return SharedRates(anonymous("tempos-rates", SharedRates.size(rows)), rows)


async def _import_api(config: BrokerConfig) -> None:
    """Have read what the control API is made of, while the kernel looks through the fast path's programs."""
    if config.api_port and config.fastpath.mode != "off":
        await asyncio.get_running_loop().run_in_executor(None, _try_api)


def _try_api() -> None:
    # What is missing is told by who makes it.
    with contextlib.suppress(ImportError):
        importlib.import_module("tempos_broker.api.application")
        importlib.import_module("tempos_daemon.http_server")


def _bind_api(
    config: BrokerConfig, broker: Broker, reload: Callable[[], Awaitable[Sequence[str]]], read: Read
) -> tuple[HttpServer | None, Feed | None, str]:
    """The control API if it can be had, not serving yet, its feed, and where it is or why not."""
    if not config.api_port:
        return None, None, "api off"
    try:
        from tempos_broker.api.application import application
        from tempos_broker.api.feed import Feed
        from tempos_daemon.http_server import HttpServer
    except ImportError as error:
        return None, None, f"api off: install tempos[broker] ({error.name} is missing)"
    where = f"{config.api_host}:{config.api_port}"
    file = config.api_token_file
    token = read_token(file, "broker.api_token_file", read) if file else config.api_token
    feed = Feed(broker.documents)
    app = application(broker, reload, token, feed)
    refused = broker.documents.api_refused
    server = HttpServer(app, config.api_host, config.api_port, refused, early=True)
    try:
        server.bind()
    except OSError as error:
        from tempos.doctor.vrf import bound_to, remedy, situation

        there = ""
        if error.errno == errno.EADDRNOTAVAIL and (device := bound_to()):
            there = f"{situation(device)}, which does not have it: {remedy(device, config.api_host)}, or "
        raise OSError(
            f"the control API cannot listen on {where}: {error.strerror}; {there}"
            'set broker.api to another address, or to "off"'
        ) from error
    return server, feed, f"api http://{where}"


def main() -> int:
    """``python -m tempos_broker -c FILE``: the same as ``tempos broker``."""
    make_whole()
    parser = argparse.ArgumentParser(prog="python -m tempos_broker")
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--portable", action="store_true")
    logs.add_options(parser, "warning")
    return run(parser.parse_args())


if __name__ == "__main__":
    leave(main())
