"""Composition root: puts configuration, fast path, broker and control API together, and runs them.

The only module of the broker that knows the fast path; whatever keeps that from working becomes a
reason in the status and in the log, never a failure of the broker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tempos import ConfigError, Quality, TemposError, Unavailable
from tempos.errors import one_line
from tempos_broker import privileges, scheduling
from tempos_broker.broker import Broker
from tempos_broker.config import load
from tempos_broker.config.model import BrokerConfig
from tempos_broker.paths import ConfiguredLimits, FastPath, NoFastPath
from tempos_broker.statefiles import StateFiles, open_state
from tempos_broker.tickets import CountedTickets, FileTickets
from tempos_daemon import logs
from tempos_daemon.token import read_token

log = logging.getLogger("tempos.broker")

#: Where root keeps its state and its locks; another user is given it.
RUN = Path("/run/tempos")

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2


def run(options: argparse.Namespace) -> int:
    """Run a broker until SIGINT or SIGTERM. ``options``: config (path), portable, log_level."""
    logs.configure(options.log_level)
    try:
        return _run_loop(Path(options.config), portable=options.portable)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, TemposError) as error:
        print(f"tempos broker: {error}", file=sys.stderr)
        return EXIT_FAILED


def _run_loop(file: Path, *, portable: bool) -> int:
    config = load(file)
    if _real_time(config):
        scheduling.allow(config.quality.priority_sq)
    # Before the first thread: a thread has the privileges of the one that makes it.
    privileges.narrow(
        fast_path=config.fastpath.mode != "off", user=config.user, own=[RUN], worker=_real_time(config)
    )
    if config.user:
        privileges.require_readable()
    try:
        import uvloop
    except ImportError:
        log.info("uvloop is not installed: asyncio's own event loop serves")
        new_loop = asyncio.new_event_loop
    else:
        new_loop = uvloop.new_event_loop
    loop = new_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve(config, portable=portable, file=file, give_up=True))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()
    return EXIT_OK


def _real_time(config: BrokerConfig) -> bool:
    return config.quality.worker_sq and config.quality.priority_sq > 0


async def serve(
    config: BrokerConfig, *, portable: bool = False, file: Path | None = None, give_up: bool = False
) -> None:
    """Serve until a signal to stop; prints the ``ready`` line once everything is in place.

    ``file``: what to load again on SIGHUP. ``give_up``: this process gives up, for good, the privileges
    that only the start needed.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        state = await open_state(config)
        if state is not None:
            stack.push_async_callback(state.close)
        fast = await start_fast_path(config, _tickets(stack, config, state))
        stack.push_async_callback(fast.close)
        drawn = None
        if state is not None and not isinstance(fast, NoFastPath):
            drawn = CountedTickets(fast.tickets, state.slow)
        store = state.store if state is not None else None
        broker = await stack.enter_async_context(
            Broker(config, fast, portable=portable, store=store, drawn=drawn)
        )
        reload = _reloader(stack, broker, file)
        api = await _start_api(stack, config, broker, reload)
        if give_up:
            kept = _real_time(config) and not scheduling.is_allowed(config.quality.priority_sq)
            left = privileges.finish(fast_path=not isinstance(fast, NoFastPath), worker=kept)
            log.info("privileges: %s", left.reason)
        print(f"ready: {broker.describe()}; {api}", flush=True)
        await stop.wait()
        log.info("stopping")


def _tickets(
    stack: contextlib.AsyncExitStack, config: BrokerConfig, state: StateFiles | None
) -> FileTickets | None:
    """Ticket counters for where there is no fast path; None: those of this process alone will do."""
    if state is not None:
        return state.tickets
    if not config.quality.worker_sq or not hasattr(os, "memfd_create"):
        return None
    tickets = FileTickets(None)
    stack.callback(tickets.close)
    return tickets


async def start_fast_path(config: BrokerConfig, tickets: FileTickets | None = None) -> FastPath:
    """The fast path of this machine, or a stand-in that says why there is none, with these ``tickets``."""
    limits = _shared_limits() if config.quality.worker_sq else None
    if config.fastpath.mode == "off":
        return NoFastPath("switched off in the configuration", tickets, limits)
    try:
        from tempos_fastpath import offload

        return await offload.start(
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
        )
    except Unavailable as error:
        # Before the ImportError that it may be as well: what a build left out says so itself.
        reason = one_line(error)
    except ImportError as error:
        reason = f"tempos[fastpath] is not installed ({one_line(error)})"
    log.warning("no fast path: %s", reason)
    return NoFastPath(reason, tickets, limits)


def _shared_limits() -> ConfiguredLimits | None:
    """Token buckets for two processes; None where memory cannot be shared, which the status will say."""
    try:
        from tempos_broker.shared import SharedRates, anonymous
    except ImportError:
        return None
    return SharedRates(anonymous("tempos-rates", SharedRates.SIZE))


def _reloader(
    stack: contextlib.AsyncExitStack, broker: Broker, file: Path | None
) -> Callable[[], Awaitable[Sequence[str]]]:
    """What loads the file again and applies it; on SIGHUP too, which then prints what came of it."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def reload() -> Sequence[str]:
        if file is None:
            raise ConfigError(["this broker was not started from a file"])
        return await broker.reload(await loop.run_in_executor(None, load, file))

    async def reload_and_tell() -> None:
        try:
            changes = await reload()
        except ConfigError as error:
            for problem in error.problems:
                log.error("not reloaded: %s", problem)  # noqa: TRY400 - its words say it all
        except Unavailable as error:
            log.error("not reloaded: %s", one_line(error))  # noqa: TRY400 - its words say it all
        else:
            print("\n".join(f"reload: {line}" for line in changes or ["nothing changed"]), flush=True)

    def on_signal() -> None:
        task = loop.create_task(reload_and_tell(), name="reload on SIGHUP")
        running.add(task)
        task.add_done_callback(running.discard)

    async def finish() -> None:
        loop.remove_signal_handler(signal.SIGHUP)
        await asyncio.gather(*running, return_exceptions=True)

    loop.add_signal_handler(signal.SIGHUP, on_signal)
    stack.push_async_callback(finish)
    return reload


async def _start_api(
    stack: contextlib.AsyncExitStack,
    config: BrokerConfig,
    broker: Broker,
    reload: Callable[[], Awaitable[Sequence[str]]],
) -> str:
    """Start the control API, closed with ``stack``, if it can be had; tells where it is or why not."""
    if not config.api_port:
        return "api off"
    try:
        from tempos_broker.api.application import application
        from tempos_daemon.http_server import HttpServer
    except ImportError as error:
        return f"api off: install tempos[broker] ({error.name} is missing)"
    where = f"{config.api_host}:{config.api_port}"
    file = config.api_token_file
    token = read_token(file, "broker.api_token_file") if file else config.api_token
    server = HttpServer(application(broker, reload, token), config.api_host, config.api_port)
    try:
        await server.start()
    except OSError as error:
        raise OSError(
            f"the control API cannot listen on {where}: {error.strerror}; "
            'set broker.api to another address, or to "off"'
        ) from error
    stack.push_async_callback(server.close)
    return f"api http://{where}"


def main() -> int:
    """``python -m tempos_broker -c FILE``: the same as ``tempos broker``."""
    parser = argparse.ArgumentParser(prog="python -m tempos_broker")
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--log-level", default="warning")
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
